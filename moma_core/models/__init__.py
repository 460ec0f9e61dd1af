"""Encoders, their weights' files, projection heads, and EMA updates."""
