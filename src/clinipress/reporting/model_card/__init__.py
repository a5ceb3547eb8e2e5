"""model-card.md: the shipped model in the form of the Hugging Face Hub."""
