"""A report as one HTML page that opens anywhere, and its charts as pictures beside it."""
