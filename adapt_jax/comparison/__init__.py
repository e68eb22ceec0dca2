"""The ladder climbed on one task, and what it comes to."""
