#!/usr/bin/env bash
# Trains on the images of one of RefCOCO, RefCOCO+ and RefCOCOg (12 epochs, lr drops after 8 and 10, two images a GPU,
# text encoder trained), then scores the set's other splits.
#   scripts/dist_train_test_refcoco.sh output/run refcoco --backbone_pretrained pretrained_weights/swin3d_t-7615ae03.pth
# Environment: GPUS, GPUS_PER_NODE and PORT as in ReferFormer (default: all GPUs); for several nodes also NNODES,
# NODE_RANK and MASTER_ADDR. Given again, the same command continues a run that was stopped.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

arguments "OUTPUT_DIR SET" "--backbone_pretrained FILE [options of main.py]" "$@"
output_dir="$1" set="$2"
shift 2
case "$set" in
    refcoco | refcoco+) splits=(val testA testB) ;;
    refcocog) splits=(val test) ;;
    *) fail "SET $set: there is no such set; choose refcoco, refcoco+ or refcocog" ;;
esac
set -- "$output_dir" --preset pretrain --dataset_file "$set" "$@"
prepare "$@"
train "$@"
score "$output_dir" "${splits[@]}"
