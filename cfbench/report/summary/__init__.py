"""The one table that comes first: what it shows, its rows, as text of every kind, and its files."""
