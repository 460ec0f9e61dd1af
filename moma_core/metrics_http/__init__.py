"""How a program shows its metrics: to whom, and within which bounds."""
