"""What every program stands on: files, databases, JSON, a command's boundary."""
