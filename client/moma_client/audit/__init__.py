"""Receipts of queries, and the monitor of the teacher's log."""
