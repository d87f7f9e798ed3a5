#!/usr/bin/env bash
# Check on this machine's GPU what a CPU can't show, part by part, with random models.
#   bash scripts/gpu_check.sh                     every part; one table at the end
#   bash scripts/gpu_check.sh attention zero      these parts
#   bash scripts/gpu_check.sh --list              the parts
#   bash scripts/gpu_check.sh --device cpu        small shapes on the CPU, what needs no GPU
#   bash scripts/gpu_check.sh --python python3    with this interpreter's packages, without set-up
# The exit code is 0 if every check passed or was skipped with a reason, else 1.
set -euo pipefail
arguments=()
while (($#)); do
  case "$1" in
    --python) given_python="${2:?--python needs a path}" && shift ;;
    *) arguments+=("$1") ;;
  esac
  shift
done
# shellcheck source=scripts/env.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/env.sh"
cd "$root"
export PYTHONPATH="$root/scripts:$PYTHONPATH"
exec "$python" -W "ignore::UserWarning" -W "ignore::FutureWarning" -m gpu_check \
  ${arguments[@]+"${arguments[@]}"}
