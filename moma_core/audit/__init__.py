"""Proof of what happened: the log of every query, its tree, its receipts."""
