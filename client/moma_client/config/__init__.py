"""The site's config file, one section a module."""
