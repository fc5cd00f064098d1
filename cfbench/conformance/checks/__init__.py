"""The checks themselves, a module for each thing that a plugin must do."""
