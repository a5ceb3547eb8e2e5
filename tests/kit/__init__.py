"""What tests share: nets, studies, records, drawn data, and how the suite itself is run."""
