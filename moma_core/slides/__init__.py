"""Whole slides: opening them, where tissue and patches lie, and annotations."""
