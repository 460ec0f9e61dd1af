"""The sources that patches can come from, and the factory that opens them."""
