"""The teacher card: what it says, how it is signed, and how it is checked."""
