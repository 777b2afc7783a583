"""A run's folder: its file names, its summary, its options, and how finished runs are read. Knows no network."""
