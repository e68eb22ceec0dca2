"""Configuration, errors, files, hashing: used by every room."""
