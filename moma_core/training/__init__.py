"""The loop around the step: schedule, checkpoint, run."""
