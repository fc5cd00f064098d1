"""The leaderboard as a page that opens from disk: from stored runs to one folder of HTML, scripts and images."""
