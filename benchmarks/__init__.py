"""Measurements, each a program of its own that prints one table."""
