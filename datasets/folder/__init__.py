"""A user's own images: a folder with a causal graph, a table of parents and image files, read and checked."""
