"""How a teacher is made: trained or taken from weights, with its card, exported."""
