"""The teacher's keys and what it signs, seals and accepts once."""
