#!/usr/bin/env bash
# Set up what is missing and run `sapo-vl train` with the same arguments, one process per GPU; on a
# CPU with two cores or more, two processes.
#   bash scripts/train_vl.sh
#   bash scripts/train_vl.sh --config configs/train/qwen3_vl_4b.yaml sapo.tau_neg=1.1
#   bash scripts/train_vl.sh --resume run.dir=RUN
# SAPO_RANKS=N       N processes
# SAPO_HOSTFILE=FILE several machines, through DeepSpeed's launcher and its hostfile
# Ctrl-C and SIGTERM reach every process; each writes its part of a checkpoint and exits.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/env.sh"

visible_gpus() {
  local devices
  if [[ -n "${CUDA_VISIBLE_DEVICES+set}" ]]; then
    IFS=, read -ra devices <<<"${CUDA_VISIBLE_DEVICES%%-1*}" # -1 ends the list
    echo "${#devices[@]}"
  elif command -v nvidia-smi >/dev/null; then
    nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true
  else
    echo 0
  fi
}

default_ranks() {
  local gpus cores
  gpus="$(visible_gpus)"
  cores="$(nproc)"
  if ((gpus > 0)); then
    echo "$gpus"
  else
    echo $((cores < 2 ? 1 : 2)) # a process has one thread; each needs 2 GB
  fi
}

ranks="${SAPO_RANKS:-$(default_ranks)}"
if ! [[ "$ranks" =~ ^[0-9]+$ ]]; then
  echo "train_vl.sh: SAPO_RANKS=$ranks is not a number of processes" >&2
  exit 2
fi
for argument in "$@"; do
  case "$argument" in -h | --help | --dry-run) ranks=1 SAPO_HOSTFILE="" ;; esac
done

if [[ -n "${SAPO_HOSTFILE:-}" ]]; then
  # A mistake would be reported by every rank: check in one process first, which prints the plan.
  "$python" -m sapo_vl.cli train --dry-run "$@"
  exec "$python" -m deepspeed.launcher.runner --hostfile "$SAPO_HOSTFILE" --no_local_rank \
    --module sapo_vl.cli train "$@"
elif ((ranks > 1)); then
  exec "$python" -m sapo_vl.system.launch "$ranks" train "$@"
else
  exec "$python" -m sapo_vl.cli train "$@"
fi
