"""The commands of moma-client."""
