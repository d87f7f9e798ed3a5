"""Worker processes with a deadline and a memory limit, for symbolic comparison and user verifiers.

Not pebble.ProcessPool (5.2.3 tried, spawn context): an idle worker killed from outside ends the
whole pool ("Unexpected error within the Pool"); every worker re-imports `__main__`, so a script
without a main guard can't use it; and a worker gets neither its own environment nor recycling by
memory.
"""
