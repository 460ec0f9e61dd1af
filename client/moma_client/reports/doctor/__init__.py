"""Checks of a site before its first run, one subject a module."""
