#!/usr/bin/env bash
# Trains on Ref-YouTube-VOS without image pretraining (10 epochs, lr drops after 6 and 8, text encoder frozen), then
# writes the submission of the validation videos.
#   scripts/dist_train_test_ytvos_scratch.sh output/run --backbone_pretrained pretrained_weights/swin3d_t-7615ae03.pth
# Environment: GPUS, GPUS_PER_NODE and PORT as in ReferFormer (default: all GPUs); for several nodes also NNODES,
# NODE_RANK and MASTER_ADDR. Given again, the same command continues a run that was stopped.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

arguments OUTPUT_DIR "--backbone_pretrained FILE [options of main.py]" "$@"
output_dir="$1"
shift
set -- "$output_dir" --preset scratch "$@"
prepare "$@"
train "$@"
submit "$output_dir" inference_ytvos.py
