"""`moma-client`: one hospital site."""
