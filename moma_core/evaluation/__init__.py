"""How good a student is, on whom it was measured, and what its outputs give away."""
