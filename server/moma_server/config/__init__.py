"""The server's config file, one section a module."""
