#!/usr/bin/env bash
# Set up what is missing and run `sapo-vl train` with the same arguments, one process per GPU; on a
# CPU with two cores or more, two processes.
#   bash scripts/train_vl.sh
#   bash scripts/train_vl.sh --config configs/train/qwen3_vl_4b.yaml sapo.tau_neg=1.1
#   bash scripts/train_vl.sh --resume run.dir=RUN
# SAPO_RANKS=N       N processes
# SAPO_HOSTFILE=FILE several machines, one line `HOST slots=RANKS` each, through DeepSpeed's launcher,
#                    which starts those machines' processes with pdsh and ssh
# SAPO_NODE=N        with it, without pdsh and ssh: this is machine N of the file, counted from 0; the
#                    script is started on each (by hand or by srun; docs/multinode.md)
# MASTER_ADDR, MASTER_PORT  where the machines' ranks meet: the file's first host, 29500
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

export SAPO_LAUNCHER=train_vl.sh # a failure then ends with the `sapo-vl doctor` command to run
ranks="${SAPO_RANKS:-$(default_ranks)}"
if ! [[ "$ranks" =~ ^[0-9]+$ ]]; then
  echo "train_vl.sh: SAPO_RANKS=$ranks is not a number of processes" >&2
  exit 2
fi
for argument in "$@"; do
  case "$argument" in -h | --help | --dry-run) ranks=1 SAPO_HOSTFILE="" ;; esac
done

# Prints `HOST RANKS` for each line of a hostfile. Mistakes that DeepSpeed answers with a traceback, or
# by running on this machine alone, are refused.
machines_of() {
  local machines
  if [[ ! -r "$1" ]]; then
    echo "train_vl.sh: SAPO_HOSTFILE=$1 can't be read" >&2
    exit 2
  fi
  machines="$(sed -nE 's/^[[:space:]]*([^#[:space:]]+)[[:space:]]+slots=([0-9]+).*/\1 \2/p' "$1")"
  if [[ -z "$machines" ]]; then
    echo "train_vl.sh: SAPO_HOSTFILE=$1 has no line of the form: HOST slots=RANKS" >&2
    exit 2
  fi
  echo "$machines"
}

# Runs a command (DeepSpeed's launchers) and passes signals on to the ranks that it starts, which get
# the time that a checkpoint takes: the launchers would kill them after 30 seconds.
run_ranks() {
  local runner code=0
  setsid "$@" & # away from the terminal, whose Ctrl-C would reach the launchers too
  runner=$!
  trap 'signal_ranks "$runner"' TERM INT
  wait "$runner" || code=$?
  while kill -0 "$runner" 2>/dev/null; do # a trap ended the wait
    code=0
    wait "$runner" || code=$?
  done
  exit "$code"
}

# Sends SIGTERM to the ranks, which are the children of the runner's child; before there are any, to
# the launchers. (A process in the background ignores SIGINT until it says otherwise.)
signal_ranks() {
  local runner="$1" launcher ranks=""
  launcher="$(pgrep -P "$runner" || true)"
  [[ -z "$launcher" ]] || ranks="$(pgrep -P "$launcher" || true)"
  # shellcheck disable=SC2086 # words of numbers
  kill -TERM ${ranks:-$launcher "$runner"} 2>/dev/null || true
}

if [[ -n "${SAPO_HOSTFILE:-}" ]]; then
  machines="$(machines_of "$SAPO_HOSTFILE")"
  count="$(wc -l <<<"$machines")"
  node="${SAPO_NODE:-}"
  ((count > 1)) || node="${node:-0}"
  if [[ -n "$node" ]] && ! { [[ "$node" =~ ^[0-9]+$ ]] && ((node < count)); }; then
    echo "train_vl.sh: SAPO_NODE=$node is not a line of $SAPO_HOSTFILE, counted from 0" >&2
    exit 2
  elif [[ -z "$node" ]] && ! command -v pdsh >/dev/null; then
    echo "train_vl.sh: pdsh is missing, with which DeepSpeed reaches the other machines: install" \
      "it, or start this script on each of them with SAPO_NODE=0, 1, .." >&2
    exit 2
  fi
  if [[ "${node:-0}" == 0 ]]; then # the check in one process: every rank would report a mistake
    ranks="$(awk '{ ranks += $2 } END { print ranks }' <<<"$machines")"
    SAPO_RANKS="$ranks" "$python" -m sapo_vl.cli train --dry-run "$@"
  fi
  launcher=("$python" -m deepspeed.launcher.runner --hostfile "$SAPO_HOSTFILE" --no_local_rank
    --master_addr "${MASTER_ADDR:-${machines%% *}}" --master_port "${MASTER_PORT:-29500}")
  if [[ -n "$node" ]]; then
    run_ranks "${launcher[@]}" --no_ssh --node_rank "$node" --module sapo_vl.cli train "$@"
  fi
  exec "${launcher[@]}" --module sapo_vl.cli train "$@"
elif ((ranks > 1)); then
  exec "$python" -m sapo_vl.system.launch "$ranks" train "$@"
else
  exec "$python" -m sapo_vl.cli train "$@"
fi
