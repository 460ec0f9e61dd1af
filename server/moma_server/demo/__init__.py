"""A whole federation on one machine, from the real programs."""
