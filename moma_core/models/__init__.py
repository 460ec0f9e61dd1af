"""Encoders, projection heads and their momentum."""
