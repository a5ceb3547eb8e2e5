"""What a user may ask for: the study file, its steps, formats and techniques, as frozen data."""
