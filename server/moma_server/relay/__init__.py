"""Serves a teacher that cannot open a port: it dials out, and is called back."""
