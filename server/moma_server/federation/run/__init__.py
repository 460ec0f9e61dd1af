"""One federated run: rounds, records, state."""
