#!/usr/bin/env bash
# Kill one small run at seven moments and resume it each time: not a bit of it may change. A run with
# adapters is killed at four, runs with a local server and rollout.ahead of 0, 1 and 2 at ten, the
# server among the victims. CI strikes four times only; this takes half an hour.
#   bash scripts/kills.sh
set -euo pipefail
with_dev=1
# shellcheck source=scripts/env.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/env.sh"
cd "$root"
exec env SAPO_TEST_KILLS=all "$python" -m pytest tests/integration/test_run.py \
  tests/integration/test_lora_run.py tests/integration/test_ahead_run.py -k kills
