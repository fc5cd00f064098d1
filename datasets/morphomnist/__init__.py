"""Morpho-MNIST: the published files, a renderer that reproduces them, and true counterfactuals rendered by it."""
