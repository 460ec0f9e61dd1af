"""What a student says to a whole slide: patch by patch, and what is written of it."""
