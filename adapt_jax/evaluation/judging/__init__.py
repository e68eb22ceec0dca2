"""Judging: is A better than B, by the answers that any of several programs has recorded?"""
