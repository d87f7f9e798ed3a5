#!/usr/bin/env bash
# The smoke job on the tiny model of each family, with vLLM: warm-up, two SAPO steps, evaluation and
# export; then transformers and vLLM load the exported model and their log-probs are compared.
#   bash scripts/families.sh                                all families, about a minute each
#   bash scripts/families.sh qwen3_5 rollout.steps=4        some, with other settings
set -euo pipefail
# shellcheck source=scripts/env.sh
with_dev=1 source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/env.sh"
export PYTHONPATH="$root/scripts:$root/tests:$PYTHONPATH"
exec "$python" -m bench.families "$@"
