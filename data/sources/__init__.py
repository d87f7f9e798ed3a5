"""One file per data set. Each has `rows(source)`, a `Sample` or a `Dropped` each."""
