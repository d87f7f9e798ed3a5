#!/usr/bin/env bash
# Run the lab's grids of small training runs and write one page; arguments are passed on to
# `sapo-vl lab`. An interrupted lab resumes with the cells that have no result.
#   bash scripts/ablate.sh                                 grids a and b, 3 seeds, into runs/lab
#   bash scripts/ablate.sh --grids g --seeds 1 --out runs/lab-g
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/env.sh"

out=(--out runs/lab)
for argument in "$@"; do
  case "$argument" in --out | --out=* | -h | --help) out=() ;; esac
done
exec "$python" -m sapo_vl.cli lab "${out[@]}" "$@"
