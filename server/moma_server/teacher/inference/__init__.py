"""The model and the queue in front of it."""
