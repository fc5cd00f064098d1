"""What several data sets share: checksums and tables on disk, the distribution of thickness, numbers of threads."""
