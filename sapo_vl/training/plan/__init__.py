"""What a run needs before it starts: memory of device and host, disk, seconds per step."""
