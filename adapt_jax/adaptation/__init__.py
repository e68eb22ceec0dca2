"""What adapting a decoder yields: asked, saved, exported."""
