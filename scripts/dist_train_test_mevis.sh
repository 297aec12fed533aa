#!/usr/bin/env bash
# Trains on MeViS (10 epochs, lr drops after 6 and 8, text encoder frozen), scores valid_u, then writes the submission
# of the validation videos.
# Environment: GPUS, GPUS_PER_NODE and PORT as in ReferFormer (default: all GPUs); for several nodes also NNODES,
# NODE_RANK and MASTER_ADDR. Given again, the same command continues a run that was stopped.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

arguments OUTPUT_DIR "--backbone_pretrained FILE [options of main.py]" "$@"
output_dir="$1"
shift
prepare
train "$output_dir" --preset scratch --dataset_file mevis "$@"
score "$output_dir" valid_u
submit "$output_dir" inference_mevis.py
