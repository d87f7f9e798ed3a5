#!/usr/bin/env bash
#SBATCH --job-name=sapo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@900
#SBATCH --requeue
# A template of a Slurm job: the first nodes learn, all others sample. Change the lines above for your
# cluster, and submit it from the checkout, on a file system that all nodes share:
#   sbatch --nodes=3 scripts/slurm.sh --config qwen3_vl_8b rollout.ahead=1 run.dir=runs/mine
# The arguments are those of train_vl.sh. At a requeue the run continues with --resume. SIGTERM comes 15
# minutes before the time limit and leads to a checkpoint. docs/multinode.md describes the topology.
# LEARNER_NODES    how many nodes learn (1); with all of them there are no servers
# RANKS_PER_NODE   the learner's processes on each (its GPUs)
# GPUS_PER_SERVER  GPUs of one server, generator.tensor_parallel (1)
# SERVERS_PER_NODE servers on each node that samples (its GPUs / GPUS_PER_SERVER)
# SERVER_PORT      of a node's first server (8000); the next ones follow
# SERVER_SECONDS   time that servers have to start (1800)
set -euo pipefail

root="${SLURM_SUBMIT_DIR:?submit this script with sbatch}"
if [[ ! -f "$root/scripts/train_vl.sh" ]]; then # the script itself runs from Slurm's own copy
  echo "slurm.sh: $root is not the checkout: submit the job from there" >&2
  exit 2
fi
# shellcheck source=scripts/env.sh
source "$root/scripts/env.sh" # sets up the environment once, before all nodes look for it

gpus="${SLURM_GPUS_ON_NODE:-0}"
per_server="${GPUS_PER_SERVER:-1}"
per_node="${SERVERS_PER_NODE:-$((gpus > 0 ? gpus / per_server : 1))}"
ranks="${RANKS_PER_NODE:-$((gpus > 0 ? gpus : 1))}"
port="${SERVER_PORT:-8000}"
cores="${SLURM_CPUS_ON_NODE:-1}"

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
learners="${LEARNER_NODES:-1}"
if ((learners < 1 || learners > ${#nodes[@]})); then
  echo "slurm.sh: LEARNER_NODES=$learners of ${#nodes[@]} nodes (sbatch --nodes)" >&2
  exit 2
fi
learner_nodes=("${nodes[@]:0:learners}")
server_nodes=("${nodes[@]:learners}")

folder="$root/runs/slurm-$SLURM_JOB_ID"
mkdir -p "$folder"
export SAPO_HOSTFILE="$folder/hostfile"
printf '%s\n' "${learner_nodes[@]/%/ slots=$ranks}" >"$SAPO_HOSTFILE"

joined() (
  IFS=,
  echo "$*"
)

# on NODES TASKS_PER_NODE OPTIONS: becomes the srun of a step on these nodes, which shares their cores
# out; for the background
on() {
  local names="$1" tasks="$2"
  shift 2
  local count=$(($(tr -cd , <<<"$names" | wc -c) + 1))
  exec srun --nodelist="$names" --nodes="$count" --ntasks="$((count * tasks))" \
    --ntasks-per-node="$tasks" --cpus-per-task="$((cores > tasks ? cores / tasks : 1))" \
    --cpu-bind=none "$@"
}

sampler=() # the arguments of a server
run=""
for argument in "$@"; do
  [[ "$argument" == --resume ]] || sampler+=("$argument")
  [[ "$argument" != run.dir=* ]] || run="${argument#run.dir=}"
done
options=() # those of the learner besides "$@"
addresses=()
servers=""
if ((${#server_nodes[@]} > 0)); then
  options+=("generator.tensor_parallel=$per_server")
  # The key travels in the environment of the steps and on no command line.
  SAPO_SERVER_KEY="${SAPO_SERVER_KEY:-$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')}"
  export SAPO_SERVER_KEY gpus per_server port root
  # No proxy stands between the nodes of a job.
  no_proxy="$(joined "${server_nodes[@]}")${no_proxy:+,$no_proxy}"
  export no_proxy NO_PROXY="$no_proxy"
  # shellcheck disable=SC2016 # expanded in the task
  on "$(joined "${server_nodes[@]}")" "$per_node" --kill-on-bad-exit=0 \
    --output="$folder/server-%n-%t.log" bash -c '
      if ((gpus > 0)); then
        first=$((SLURM_LOCALID * per_server))
        CUDA_VISIBLE_DEVICES="$(seq -s, "$first" "$((first + per_server - 1))")"
        export CUDA_VISIBLE_DEVICES
      fi
      exec bash "$root/scripts/serve_vl.sh" --host 0.0.0.0 --port "$((port + SLURM_LOCALID))" "$@"
    ' server "${sampler[@]}" "${options[@]}" &
  servers=$!
  for node in "${server_nodes[@]}"; do
    for ((i = 0; i < per_node; i++)); do
      addresses+=("http://$node:$((port + i))")
    done
  done
  options+=("generator.backend=server" "generator.servers=[$(joined "${addresses[@]}")]")
fi
end_servers() {
  [[ -z "$servers" ]] || kill "$servers" 2>/dev/null || true
}
trap end_servers EXIT

deadline=$((SECONDS + ${SERVER_SECONDS:-1800}))
for address in "${addresses[@]}"; do
  until curl --silent --fail --max-time 5 --noproxy '*' --output /dev/null "$address/health"; do
    if ! kill -0 "$servers" 2>/dev/null || ((SECONDS > deadline)); then
      echo "slurm.sh: the server $address does not answer: see $folder/server-*.log" >&2
      exit 1
    fi
    sleep 2
  done
done

resume=() # at a requeue, unless the job ended before its run began
if ((${SLURM_RESTART_COUNT:-0} > 0)) && [[ -z "$run" || -f "$run/config.yaml" ]]; then
  resume=(--resume)
fi
# shellcheck disable=SC2016 # expanded in the task
on "$(joined "${learner_nodes[@]}")" 1 --kill-on-bad-exit=1 bash -c '
    line="$(grep -n "^$SLURMD_NODENAME " "$SAPO_HOSTFILE")"
    SAPO_NODE=$((${line%%:*} - 1)) exec bash "$0/scripts/train_vl.sh" "$@"
  ' "$root" "$@" "${options[@]}" "${resume[@]}" &
learner=$!
trap 'kill -TERM "$learner" 2>/dev/null' TERM INT # srun passes it on
code=0
wait "$learner" || code=$?
while kill -0 "$learner" 2>/dev/null; do # a trap ended the wait
  code=0
  wait "$learner" || code=$?
done
exit "$code"
