"""`moma-client report`: what a run's students can be trusted with, as one HTML page."""
