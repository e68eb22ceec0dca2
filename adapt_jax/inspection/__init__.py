"""Facts about a checkpoint and the memory that adapting it needs, before it is loaded."""
