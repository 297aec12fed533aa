#!/usr/bin/env bash
# Fine-tunes on A2D-Sentences from pretrained weights (6 epochs, lr drops after 3 and 5), then scores the test split.
#   scripts/dist_train_a2d.sh output/run output/pretrain/checkpoint.pth
# Environment: GPUS, GPUS_PER_NODE and PORT as in ReferFormer (default: all GPUs); for several nodes also NNODES,
# NODE_RANK and MASTER_ADDR. Given again, the same command continues a run that was stopped.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

arguments "OUTPUT_DIR PRETRAINED_WEIGHTS" "[options of main.py]" "$@"
output_dir="$1" weights="$2"
shift 2
holds_run "$output_dir" || needs_file PRETRAINED_WEIGHTS "$weights"
set -- "$output_dir" --preset a2d_finetune --pretrained_weights "$weights" "$@"
prepare "$@"
train "$@"
score "$output_dir" test
