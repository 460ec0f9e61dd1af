"""`moma-server`: teacher institution, coordinator, or both."""
