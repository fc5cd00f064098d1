"""Scores of counterfactual images, one family a module; each class is a plugin of its own."""
