"""The learner: rollouts in, new weights out, on DeepSpeed.

policy.py is the only forward path, shared_prefix.py the default layout, padded.py the reference
layout, engine.py the optimizer step.
"""
