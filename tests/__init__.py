"""The tests of all packages, and what supports them."""
