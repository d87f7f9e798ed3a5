#!/usr/bin/env bash
# Test on this machine's GPU what a CPU can't: tests/gpu, then the smoke run in bfloat16.
#   bash scripts/gpu_check.sh
set -euo pipefail
with_dev=1
# shellcheck source=scripts/env.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/env.sh"
cd "$root"
if ! nvidia-smi -L >/dev/null 2>&1; then
  echo "gpu_check.sh: no NVIDIA GPU on this machine" >&2
  exit 2
fi
nvidia-smi -L
"$python" -m pytest -m gpu tests/gpu
run="$(mktemp -d)/run"
"$python" -m sapo_vl.cli train --config configs/train/smoke.yaml "run.dir=$run" \
  model.dtype=bfloat16 learner.zero_stage=2 generator.parity_stop=0.05
