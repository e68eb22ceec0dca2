"""The model: one decoder, its families, its prefix, its place on the mesh."""
