"""What makes one candidate from another."""
