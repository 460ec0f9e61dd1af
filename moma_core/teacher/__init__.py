"""What a teacher is: its card, its answers, and the local ones."""
