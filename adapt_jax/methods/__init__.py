"""The techniques, a file for each."""
