#!/usr/bin/env bash
# Set up what is missing, then lint, types, the documentation site and tests; further arguments go to
# pytest.
#   bash scripts/test.sh                 everything but what is marked long
#   bash scripts/test.sh -m 'not slow'   without the tests that start vLLM or DeepSpeed
#   bash scripts/test.sh --lint          no tests
set -euo pipefail
with_dev=1
# shellcheck source=scripts/env.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/env.sh"
cd "$root"

# Tests of whole runs, which share no engine with others: the core that has less to do takes them.
whole_runs=(tests/integration/test_{run,lora_run,ahead_run,lab}.py)

export NO_MKDOCS_2_WARNING=1 # the theme's notice about its successor

failed=()
check() {
  echo "== $*" >&2
  "$python" -m "$@" || failed+=("${*:1:2}")
}
check ruff check .
check ruff format --check .
if [[ "${1:-}" == "--lint" ]]; then
  check mypy -p sapo_vl
  check mkdocs build
else
  # The other core checks the types, builds the site and, if everything is asked for, runs the tests
  # that start neither vLLM nor DeepSpeed, and those of whole runs; this one runs all others.
  log="$(mktemp)"
  {
    types=0 site=0 tests=0
    "$python" -m mypy -p sapo_vl || types=$?
    "$python" -m mkdocs build || site=$?
    if (($# == 0)); then
      "$python" -m pytest -m "not slow" || tests=$?
      "$python" -m pytest -m "slow and not long" "${whole_runs[@]}" || tests=$?
    fi
    exit $((types || site || tests))
  } >"$log" 2>&1 &
  beside=$!
  if (($# == 0)); then
    check pytest -m "slow and not long" "${whole_runs[@]/#/--ignore=}"
  else
    check pytest "$@"
  fi
  echo '== meanwhile: mypy -p sapo_vl, mkdocs build, and without arguments more of pytest' >&2
  wait "$beside" || failed+=("what ran meanwhile")
  cat "$log"
  rm -f "$log"
fi
if ((${#failed[@]})); then
  echo "test.sh: failed: ${failed[*]}" >&2
  exit 1
fi
