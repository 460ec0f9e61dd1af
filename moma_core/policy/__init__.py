"""What a teacher grants: the budget."""
