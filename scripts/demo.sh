#!/usr/bin/env bash
# The whole project in small: generates videos, trains, infers, scores and draws. Takes up to 15 minutes on 2 CPU cores.
#   ./scripts/demo.sh [--output_dir DIR] [--seed N]
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
exec "$PYTHON" tools/demo.py "$@"
