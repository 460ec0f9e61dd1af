"""Version 1 of the wire contract: generated stubs and `convert`."""
