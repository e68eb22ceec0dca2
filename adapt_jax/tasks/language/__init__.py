"""What words, letters and characters in a text mean, for all that reads answers."""
