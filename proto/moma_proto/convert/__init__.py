"""Between the messages of moma.v1 and the values of the domain."""
