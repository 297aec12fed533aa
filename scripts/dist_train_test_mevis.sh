#!/usr/bin/env bash
# Trains on MeViS (10 epochs, lr drops after 6 and 8, text encoder frozen), scores valid_u, then writes the submission
# of the validation videos.
# With --mevis_version 2 among the options all this is done with version 2 of MeViS.
#   scripts/dist_train_test_mevis.sh output/run --backbone_pretrained pretrained_weights/swin3d_t-7615ae03.pth
# Environment: GPUS, GPUS_PER_NODE and PORT as in ReferFormer (default: all GPUs); for several nodes also NNODES,
# NODE_RANK and MASTER_ADDR. Given again, the same command continues a run that was stopped.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

arguments OUTPUT_DIR "[--mevis_version 2] --backbone_pretrained FILE [options of main.py]" "$@"
output_dir="$1"
shift
dataset=mevis
inference=()
options=()
while (($#)); do
    case "$1 ${2:-}" in
        "--mevis_version 1") shift ;;
        "--mevis_version 2")
            dataset=mevis_v2
            inference=(--mevis_version 2)
            shift
            ;;
        --mevis_version*) fail "$1 ${2:-}: give --mevis_version 1 or --mevis_version 2" ;;
        *) options+=("$1") ;;
    esac
    shift
done
set -- "$output_dir" --preset scratch --dataset_file "$dataset" "${options[@]}"
prepare "$@"
train "$@"
score "$output_dir" valid_u
submit "$output_dir" inference_mevis.py "${inference[@]}"
