#!/usr/bin/env bash
# Trains on Long-RVOS (10 epochs, lr drops after 6 and 8, text encoder frozen), then scores valid and test.
# An epoch takes a twentieth of the clips, drawn anew: 75,000, as many as one of Ref-YouTube-VOS has (--mix).
#   scripts/dist_train_test_long_rvos.sh output/run --backbone_pretrained pretrained_weights/swin3d_t-7615ae03.pth
# Environment: GPUS, GPUS_PER_NODE and PORT as in ReferFormer (default: all GPUs); for several nodes also NNODES,
# NODE_RANK and MASTER_ADDR. Given again, the same command continues a run that was stopped.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

arguments OUTPUT_DIR "--backbone_pretrained FILE [options of main.py]" "$@"
output_dir="$1"
shift
set -- "$output_dir" --preset scratch --dataset_file long_rvos --mix long_rvos=0.05 "$@"
prepare "$@"
train "$@"
score "$output_dir" valid test
