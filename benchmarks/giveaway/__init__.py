"""What a teacher's answers give away, measured by playing who would take it."""
