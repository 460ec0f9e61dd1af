"""A site's run, from its config to its last report."""
