"""Comparison: the ladder of techniques on one task, and which rung is enough."""
