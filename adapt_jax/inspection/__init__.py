"""What a checkpoint is, and what adapting it needs, before anything is loaded."""
