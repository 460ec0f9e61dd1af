"""One query from its charge to its logged outcome."""
