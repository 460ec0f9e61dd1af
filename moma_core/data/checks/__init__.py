"""What is said of a set of patches before anybody works on it."""
