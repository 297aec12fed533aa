#!/usr/bin/env bash
# Trains on A2D-Sentences without pretraining on RefCOCO (12 epochs, lr drops after 8 and 10, clips of 6 frames), then
# scores the test split.
#   scripts/dist_train_a2d_scratch.sh output/run --backbone_pretrained pretrained_weights/swin3d_t-7615ae03.pth
# Environment: GPUS, GPUS_PER_NODE and PORT as in ReferFormer (default: all GPUs); for several nodes also NNODES,
# NODE_RANK and MASTER_ADDR. Given again, the same command continues a run that was stopped.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

arguments OUTPUT_DIR "--backbone_pretrained FILE [options of main.py]" "$@"
output_dir="$1"
shift
set -- "$output_dir" --preset a2d_scratch "$@"
prepare "$@"
train "$@"
score "$output_dir" test
