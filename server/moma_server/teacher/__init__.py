"""The teacher service: one query, from the wire to the model and back."""
