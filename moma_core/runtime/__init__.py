"""What every program stands on: files, databases, JSON, the clock, commands."""
