"""What an operator reads before a run: plan, preview, encoding loss."""
