"""The commands of moma-server."""
