"""Timings against the peers, each as its users would use it."""
