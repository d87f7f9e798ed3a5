"""report.html: what a run was told to do, what it did, and what came out, on one page."""
