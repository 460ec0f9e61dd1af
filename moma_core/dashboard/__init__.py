"""A page for a person on duty: what a program's metrics and status say, read-only."""
