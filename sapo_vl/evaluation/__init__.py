"""Accuracy of a model: held-out problems, published benchmarks, scoring, paired comparison."""
