#!/usr/bin/env bash
# test.sh [pytest arguments]: set-up, lint, format and all tests. Paths are relative to the repository.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

"$ROOT/scripts/setup.sh" --dev
cd "$ROOT"
export HF_HUB_OFFLINE=1
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m pytest "$@"
