#!/usr/bin/env bash
# Set up what is missing, then run `sapo-vl benchmark` if --benchmarks is among the arguments, else
# `sapo-vl evaluate`.
#   bash scripts/eval_vl.sh --model FOLDER
#   bash scripts/eval_vl.sh --model FOLDER --benchmarks mathvision,wemath --source FILES --out FOLDER
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/env.sh"

command=evaluate
for argument in "$@"; do
  case "$argument" in --benchmarks | --benchmarks=*) command=benchmark ;; esac
done
exec "$python" -m sapo_vl.cli "$command" "$@"
