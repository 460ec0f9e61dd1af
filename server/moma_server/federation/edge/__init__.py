"""The TLS proxy in front of the Fleet API, all that a site can reach of it."""
