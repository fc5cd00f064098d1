"""From samples of scores to intervals and ranks."""
