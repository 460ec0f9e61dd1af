"""Rounds: tasks, reports, what may leave a site in them, and their average."""
