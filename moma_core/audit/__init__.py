"""The append-only log of every query: its Merkle tree, receipts and verification."""
