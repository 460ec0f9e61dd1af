"""The method and its arithmetic: no wire, no federation engine, no monitoring."""
