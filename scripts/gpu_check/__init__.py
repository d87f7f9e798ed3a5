"""What this toolkit does on a GPU and a CPU can't show, part by part: `bash scripts/gpu_check.sh`.

parts.py lists the parts, runner.py runs each in a process of its own; kernels.py, policy.py,
learning.py, ranks.py, engine.py and jobs.py are the parts. Model and batches are random.
"""
