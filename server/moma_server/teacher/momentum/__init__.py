"""Momentum sessions: a copy of the teacher for each site, moved by its student."""
