"""Tasks: the data that a decoder is adapted to. Nothing here knows a model."""
