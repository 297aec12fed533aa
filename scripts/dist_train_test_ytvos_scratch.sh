#!/usr/bin/env bash
# Trains on Ref-YouTube-VOS without image pretraining (10 epochs, lr drops after 6 and 8, text encoder frozen), then
# writes the submission of the validation videos. GPUS, GPUS_PER_NODE and PORT as in ReferFormer; all GPUs when unset.
# Over several nodes, also NNODES, NODE_RANK and MASTER_ADDR.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

if (($# < 1)) || [[ "$1" == -* ]]; then
    echo "usage: [GPUS=N] [PORT=N] $PROGRAM OUTPUT_DIR [options of main.py]" >&2
    exit 2
fi
output_dir="$1"
shift
train_test_ytvos "$output_dir" --preset scratch "$@"
