"""From a row of any shape to an Example: which field is what, as which text."""
