"""A task file for data that nobody has described, for ``init`` and ``preview``."""
