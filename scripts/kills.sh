#!/usr/bin/env bash
# Kill one small run at seven moments and resume it each time: not a bit of it may change. CI strikes
# twice only; this takes four minutes.
#   bash scripts/kills.sh
set -euo pipefail
with_dev=1
# shellcheck source=scripts/env.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/env.sh"
cd "$root"
exec env SAPO_TEST_KILLS=all "$python" -m pytest tests/integration/test_run.py -k kills
