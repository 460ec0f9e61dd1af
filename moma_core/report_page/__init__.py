"""A report: one HTML page that opens anywhere, and its charts as pictures."""
