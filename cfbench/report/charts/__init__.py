"""Charts of scores, of costs, and of what methods recorded while they were fitted."""
