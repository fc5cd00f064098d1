"""Files that `cfbench new` writes, as they stand here but for their names."""
