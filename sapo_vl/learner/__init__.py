"""The learner: rows of responses in, new weights out, on DeepSpeed.

policy.py is the one forward path, padded.py the reference layout, engine.py the optimizer step.
"""
