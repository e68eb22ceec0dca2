"""Generates many candidates after one encoded prefix, and computes likelihoods of given texts."""
