"""Adapts without training: what stands in front of the question."""
