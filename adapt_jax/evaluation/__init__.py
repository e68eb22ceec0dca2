"""Evaluation: answers are scored, measured, tested for significance, and reported."""
