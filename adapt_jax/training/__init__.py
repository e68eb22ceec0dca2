"""Adapts by training: a soft prompt, low-rank updates, or every parameter."""
