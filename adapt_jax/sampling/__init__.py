"""Many candidates for the price of one prompt."""
