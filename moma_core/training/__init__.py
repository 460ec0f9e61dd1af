"""The loop around the step: optimiser, schedule, checkpoint and resume."""
