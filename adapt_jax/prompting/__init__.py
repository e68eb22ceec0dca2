"""Adapts without training: what is prepended to the question, and votes on the answers."""
