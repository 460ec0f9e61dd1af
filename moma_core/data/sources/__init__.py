"""The kinds of data a patch can come from, and the factory that opens them."""
