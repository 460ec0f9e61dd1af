"""`moma-server report`: what a coordinator knows of a run, as one HTML page."""
