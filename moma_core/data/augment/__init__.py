"""Seeded augmentation: one recipe, geometric, stain and photometric views."""
