"""A run's folder, files, signals, metrics, curves and terminal display."""
