import trl, torch, transformers, accelerate

print(trl.__version__, torch.__version__, transformers.__version__, accelerate.__version__)
from trl import GRPOTrainer, GRPOConfig

print("ok")
