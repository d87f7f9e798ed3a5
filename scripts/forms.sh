#!/usr/bin/env bash
# Train every configuration's form on a tiny model, on 1, 2 and 4 processes of this CPU, and compare
# gradients and weights with those of the plain run: no ZeRO, no offloading, one process.
#   bash scripts/forms.sh                                       all of configs/train
#   bash scripts/forms.sh configs/train/qwen3_vl_8b.yaml        some
#   bash scripts/forms.sh --ranks 2 learner.offload_while_sampling=true
set -euo pipefail
# shellcheck source=scripts/env.sh
with_dev=1 source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/env.sh"
export PYTHONPATH="$root/scripts:$root/tests:$PYTHONPATH"
exec "$python" -m bench.forms "$@"
