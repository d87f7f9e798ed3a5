#!/usr/bin/env bash
# Set up what is missing and run `sapo-vl serve` with the same arguments: one vLLM server that samples
# for a run with generator.backend=server, on this machine (docs/multinode.md).
#   SAPO_SERVER_KEY=.. bash scripts/serve_vl.sh --config qwen3_vl_8b --host 10.0.0.3 --port 8000
# CUDA_VISIBLE_DEVICES chooses its GPUs, generator.tensor_parallel of them.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/env.sh"
exec "$python" -m sapo_vl.cli serve "$@"
