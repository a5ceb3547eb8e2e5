"""Formulas on arrays: metrics, intervals, paired tests. No records of a study, no files."""
