"""One student: built, trained for a round, evaluated, exported."""
