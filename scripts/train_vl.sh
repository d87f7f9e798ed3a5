#!/usr/bin/env bash
# Set up what is missing and run `sapo-vl train` with the same arguments, one process per GPU.
#   bash scripts/train_vl.sh
#   bash scripts/train_vl.sh --config configs/train/qwen3_vl_4b.yaml sapo.tau_neg=1.1
#   bash scripts/train_vl.sh --resume run.dir=RUN
# SAPO_RANKS=N       N processes (default: the visible GPUs, or 1 on a CPU)
# SAPO_HOSTFILE=FILE several machines, through DeepSpeed's launcher and its hostfile
# Ctrl-C and SIGTERM reach every process; each writes its part of a checkpoint and exits.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/env.sh"

visible_gpus() {
  local devices
  if [[ -n "${CUDA_VISIBLE_DEVICES+set}" ]]; then
    IFS=, read -ra devices <<<"$CUDA_VISIBLE_DEVICES"
    echo "${#devices[@]}"
  elif command -v nvidia-smi >/dev/null; then
    nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true
  else
    echo 0
  fi
}

ranks="${SAPO_RANKS:-$(visible_gpus)}"
if ! [[ "$ranks" =~ ^[0-9]+$ ]]; then
  echo "train_vl.sh: SAPO_RANKS=$ranks is not a number of processes" >&2
  exit 2
fi
for argument in "$@"; do
  case "$argument" in -h | --help | --dry-run) ranks=1 SAPO_HOSTFILE="" ;; esac
done

if [[ -n "${SAPO_HOSTFILE:-}" ]] || ((ranks > 1)); then
  # A mistake would be reported by every rank: check in one process first, which prints the plan.
  "$python" -m sapo_vl.cli train --dry-run "$@"
fi

if [[ -n "${SAPO_HOSTFILE:-}" ]]; then
  exec "$python" -m deepspeed.launcher.runner --hostfile "$SAPO_HOSTFILE" --no_local_rank \
    --module sapo_vl.cli train "$@"
elif ((ranks > 1)); then
  # torchrun, not DeepSpeed's launcher: on SIGTERM the latter exits at once and orphans its
  # processes, and on Ctrl-C it gives them 30 s, too short for a large checkpoint. SIGHUP is not
  # forwarded, so that nohup works.
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
  # The ranks meet in files of a folder that only this user can read: torchrun's usual stores listen
  # on every interface of the machine and unpickle what they are sent.
  meeting="$(mktemp -d "${TMPDIR:-/tmp}/sapo-ranks.XXXXXX")"
  export SAPO_STORE="$meeting/store" TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
  export GLOO_SOCKET_IFNAME="${GLOO_SOCKET_IFNAME:-lo}" NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-lo}"
  exec "$python" -m torch.distributed.run --nproc_per_node "$ranks" --local-addr 127.0.0.1 \
    --rdzv-backend c10d --rdzv-conf store_type=file --rdzv-endpoint "$meeting/rendezvous" \
    --shutdown-timeout 900 --signals-to-handle SIGTERM,SIGINT \
    --module sapo_vl.cli train "$@"
else
  exec "$python" -m sapo_vl.cli train "$@"
fi
