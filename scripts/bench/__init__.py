"""Benchmarks of this toolkit against TRL, and of its data pipelines; not part of the wheel.

learner.py times the policy update on the batches of cases.py, whole_step.py whole training steps,
memory.py peak memory, telemetry_cost.py the telemetry and data_speed.py the data pipelines.
"""
