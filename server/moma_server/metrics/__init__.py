"""All metrics of the servers."""
