"""Measurements against TRL; nothing here is imported by a training run.

cases.py says what is measured, learner.py measures the policy update, whole_step.py all of a step.
"""
