"""Generates many candidates behind one encoded prefix, and computes likelihoods of given texts."""
