"""Patches: sources, splits, views, batches."""
