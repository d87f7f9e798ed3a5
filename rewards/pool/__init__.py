"""Worker processes with deadlines and memory limits for symbolic comparison."""
