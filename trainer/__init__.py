"""Fine-tuning, and the making of the starter model."""
