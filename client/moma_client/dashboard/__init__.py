"""What a site's dashboard shows of its own run, to that site alone."""
