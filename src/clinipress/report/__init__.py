"""The report: one self-contained HTML file, drawn from the records and nothing else."""
