#!/usr/bin/env bash
# The main job in small: generates videos, trains, infers, scores and draws, in 12 to 20 minutes on 2 CPU
# cores that have bfloat16 instructions, in 45 on others.
#   scripts/demo.sh [--output_dir DIR] [--seed N] [--quick | --tune | --long]
# --quick takes the weights in pretrained_weights/ instead of training; --tune teaches them new things in minutes; --long is
# how they were trained.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

known_options tools/small_job/run.py "$@"
out="$(option_value --output_dir output/demo "$@")"
[[ ! -e "$out" || -z "$(ls -A "$out")" ]] || fail "--output_dir $out already holds something: give another folder, or remove it"
"$ROOT/scripts/setup.sh"
exec "$PYTHON" "$ROOT/tools/small_job/run.py" "$@"
