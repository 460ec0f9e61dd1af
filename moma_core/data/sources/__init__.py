"""The sources of patches, one kind a file, and the factory that opens them."""
