"""The wire contract, `moma.v1`, and its conversion to the domain."""
