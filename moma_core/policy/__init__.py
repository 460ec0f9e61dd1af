"""What a teacher grants and discloses: budget, rates, coverage and outputs."""
