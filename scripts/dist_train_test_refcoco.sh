#!/usr/bin/env bash
# Trains on the images of one of RefCOCO, RefCOCO+ and RefCOCOg (12 epochs, lr drops after 8 and 10, two images a GPU,
# text encoder trained), then scores each of its other splits.
# GPUS, GPUS_PER_NODE and PORT as in ReferFormer; all GPUs when unset. Over several nodes, also NNODES, NODE_RANK and
# MASTER_ADDR. The same command again goes on where an earlier one stopped.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

arguments "OUTPUT_DIR SET" "[options of main.py]" "$@"
output_dir="$1" set="$2"
shift 2
case "$set" in
    refcoco | refcoco+) splits=(val testA testB) ;;
    refcocog) splits=(val test) ;;
    *) fail "SET $set: there is no such set; choose refcoco, refcoco+ or refcocog" ;;
esac
prepare
train "$output_dir" --preset pretrain --dataset_file "$set" "$@"
score "$output_dir" "${splits[@]}"
