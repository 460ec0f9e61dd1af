"""Many sites ask one teacher for long: what grows, who waits, who is pushed back."""
