"""The report and what lies beside it, drawn from the records and nothing else."""
