#!/usr/bin/env bash
# Scores a checkpoint of A2D-Sentences on JHMDB-Sentences, without fine-tuning.
#   scripts/dist_test_jhmdb.sh output/run output/a2d/checkpoint.pth
# Environment: GPUS, GPUS_PER_NODE and PORT as in ReferFormer (default: all GPUs); for several nodes also NNODES,
# NODE_RANK and MASTER_ADDR.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

arguments "OUTPUT_DIR CHECKPOINT" "[options of main.py]" "$@"
output_dir="$1" checkpoint="$2"
shift 2
needs_file CHECKPOINT "$checkpoint"
set -- --eval --dataset_file jhmdb --resume "$checkpoint" "$@" --output_dir "$output_dir"
check_options "$@"
prepare
launch main.py "$@"
