#!/usr/bin/env bash
# Fine-tunes on Ref-YouTube-VOS from pretrained weights (6 epochs, lr drops after 3 and 5, text encoder frozen), then
# writes the submission of the validation videos. GPUS, GPUS_PER_NODE and PORT as in ReferFormer; all GPUs when unset.
# Over several nodes, also NNODES, NODE_RANK and MASTER_ADDR.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

if (($# < 2)) || [[ "$1" == -* || "$2" == -* ]]; then
    echo "usage: [GPUS=N] [PORT=N] $PROGRAM OUTPUT_DIR PRETRAINED_WEIGHTS [options of main.py]" >&2
    exit 2
fi
output_dir="$1" weights="$2"
shift 2
[[ -f "$weights" ]] || fail "PRETRAINED_WEIGHTS $weights: there is no such file; see pretrained_weights/README.md"
train_test_ytvos "$output_dir" --preset finetune --pretrained_weights "$weights" "$@"
