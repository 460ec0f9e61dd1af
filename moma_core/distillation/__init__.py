"""The method: attention, memory bank, losses, and the step on one page."""
