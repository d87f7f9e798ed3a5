#!/usr/bin/env bash
# Set up what is missing and run `sapo-vl evaluate` with the same arguments.
#   bash scripts/eval_vl.sh --model FOLDER
#   bash scripts/eval_vl.sh --model FOLDER --benchmarks mathvision,wemath --source FILES --out FOLDER
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/env.sh"
exec "$python" -m sapo_vl.cli evaluate "$@"
