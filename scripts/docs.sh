#!/usr/bin/env bash
# Build the documentation site into build/site; set up what is missing first.
#   bash scripts/docs.sh            every dead link and every page without a place is an error
#   bash scripts/docs.sh --serve    show it at http://127.0.0.1:8000, and again after each change
set -euo pipefail
with_dev=1
# shellcheck source=scripts/env.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/env.sh"
cd "$root"
export NO_MKDOCS_2_WARNING=1 # the theme's notice about its successor

if [[ "${1:-}" == "--serve" ]]; then
  exec "$python" -m mkdocs serve --dev-addr 127.0.0.1:8000 "${@:2}"
fi
"$python" -m mkdocs build "$@"
echo "the site is in build/site: open build/site/index.html"
