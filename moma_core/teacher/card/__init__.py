"""The teacher card: what a teacher promises, signed, and how it is checked."""
