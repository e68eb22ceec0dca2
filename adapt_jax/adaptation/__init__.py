"""Adaptation: the result of adapting a decoder, which is asked, saved and exported."""
