"""What is wrong with a data folder, found before any training."""
