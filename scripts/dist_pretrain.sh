#!/usr/bin/env bash
# Pretrains on the images of RefCOCO, RefCOCO+ and RefCOCOg (12 epochs, lr drops after 8 and 10, two images a GPU, text
# encoder trained); recipes that fine-tune start from OUTPUT_DIR/checkpoint.pth.
#   scripts/dist_pretrain.sh output/run --backbone_pretrained pretrained_weights/swin3d_t-7615ae03.pth
# Environment: GPUS, GPUS_PER_NODE and PORT as in ReferFormer (default: all GPUs); for several nodes also NNODES,
# NODE_RANK and MASTER_ADDR. Given again, the same command continues a run that was stopped.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

arguments OUTPUT_DIR "--backbone_pretrained FILE [options of main.py]" "$@"
output_dir="$1"
shift
set -- "$output_dir" --preset pretrain "$@"
prepare "$@"
train "$@"
