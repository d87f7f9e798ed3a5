#!/usr/bin/env bash
# Set up what is missing, then lint, types and tests; further arguments go to pytest.
#   bash scripts/test.sh                 everything
#   bash scripts/test.sh -m 'not slow'   without the tests that start vLLM or DeepSpeed
#   bash scripts/test.sh --lint          lint and types only
set -euo pipefail
with_dev=1
# shellcheck source=scripts/env.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/env.sh"
cd "$root"

failed=()
check() {
  echo "== $*" >&2
  "$python" -m "$@" || failed+=("${*:1:2}")
}
check ruff check .
check ruff format --check .
if [[ "${1:-}" == "--lint" ]]; then
  check mypy -p sapo_vl
else
  # Types are checked on the other core: both take minutes.
  types="$(mktemp)"
  "$python" -m mypy -p sapo_vl >"$types" 2>&1 &
  mypy=$!
  check pytest "$@"
  echo "== mypy -p sapo_vl" >&2
  wait "$mypy" || failed+=("mypy -p")
  cat "$types"
  rm -f "$types"
fi
if ((${#failed[@]})); then
  echo "test.sh: failed: ${failed[*]}" >&2
  exit 1
fi
