#!/usr/bin/env bash
# The main job in small: generates videos, fine-tunes the shipped weights on things that they never saw, infers, scores and
# draws, in five minutes on 2 CPU cores that have bfloat16 instructions, in up to ten on others.
#   scripts/demo.sh [--output_dir DIR] [--seed N] [--quick | --scratch | --long]
# --quick trains nothing; --scratch trains from random weights; --long does so for hours, as the shipped weights were made.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

check_options "$@"
"$ROOT/scripts/setup.sh"
exec "$PYTHON" "$ROOT/tools/small_job/run.py" "$@"
