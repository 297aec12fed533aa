#!/usr/bin/env bash
# Segments the validation videos of Ref-DAVIS17 with a checkpoint of Ref-YouTube-VOS, for each of the four annotators,
# and scores them; the scores are also in OUTPUT_DIR/valid/scores.json.
#   scripts/dist_test_davis.sh output/run output/ytvos/checkpoint.pth
# Environment: GPUS, GPUS_PER_NODE and PORT as in ReferFormer (default: all GPUs); for several nodes also NNODES,
# NODE_RANK and MASTER_ADDR.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

arguments "OUTPUT_DIR CHECKPOINT" "[options of inference_davis.py]" "$@"
output_dir="$1" checkpoint="$2"
shift 2
needs_file CHECKPOINT "$checkpoint"
check_options --resume "$checkpoint" "$@"
davis_path="$(option_value --davis_path data/ref-davis "$@")"
[[ -d "$davis_path" ]] || fail "--davis_path $davis_path: there is no such folder; see docs/data.md, Ref-DAVIS17"
prepare
masks="$output_dir/valid"
tolerate launch inference_davis.py --resume "$checkpoint" "$@" --split valid --output_dir "$masks" --overwrite
"$PYTHON" "$ROOT/eval_davis.py" "$masks" --davis_path "$davis_path" --json "$masks/scores.json"
