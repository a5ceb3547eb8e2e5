"""What is measured of a candidate: statistics on logits, costs, time."""
