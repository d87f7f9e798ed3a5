#!/usr/bin/env bash
# Run the laboratory's grids of small training runs and write one page; further arguments go to
# `sapo-vl lab`. A run that was stopped goes on where it stood.
#   bash scripts/ablate.sh                                 grids a and b, 3 seeds, into runs/lab
#   bash scripts/ablate.sh --grids c,d --seeds 1 --out runs/lab-cd
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/env.sh"

out=(--out runs/lab)
for argument in "$@"; do
  case "$argument" in --out | --out=* | -h | --help) out=() ;; esac
done
exec "$python" -m sapo_vl.cli lab "${out[@]}" "$@"
