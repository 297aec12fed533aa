#!/usr/bin/env bash
# trial.sh [OUTPUT_DIR]: tries the script of every benchmark on this machine, on small sets in the data sets' layouts.
# Each script trains a small network for one epoch, so the scores mean nothing. A2D, JHMDB and RefCOCO are the
# miniatures of tests/published, written by the publishers' own generators; the other sets are generated.
# Environment: GPUS, GPUS_PER_NODE and PORT as in the scripts that it runs.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

(($# <= 1)) && [[ "${1:-}" != -* ]] || fail "usage: $PROGRAM [OUTPUT_DIR]"
out="${1:-output/trial}" scripts="$ROOT/scripts"
[[ ! -e "$out" ]] || fail "$out exists already; give another folder, or delete it"
"$scripts/setup.sh"

step() {
    echo
    echo "== $*"
}
tool() { "$PYTHON" "$ROOT/tools/$1" "${@:2}"; }
generate() { tool data/make_synthetic.py "$out/data/$1" --format "$1" --train_videos 6 --valid_videos 3; }

step "small sets, converted and checked"
for set in ytvos davis mevis long_rvos; do
    generate "$set"
done
tool data/convert_davis_to_ytvos.py "$out/data/davis"
cp -R "$ROOT"/tests/published/{a2d,jhmdb} "$out/data"
cp -R "$ROOT/tests/published/coco" "$out/data/refcoco"
for set in ytvos davis a2d jhmdb refcoco mevis long_rvos; do
    tool data/check.py "$set" "$out/data/$set"
done
tool make_tiny_text_encoder.py "$out/data/ytvos/meta_expressions/train/meta_expressions.json" \
    --output_dir "$out/text_encoder"

network=(--text_encoder "$out/text_encoder" --backbone tsm_resnet10_half --hidden_dim 96 --nheads 4 --mask_dim 32
    --enc_layers 2 --train_sizes 96 --eval_size 96 --max_size 160 --num_frames 4 --batch_size 2
    --expressions_per_clip 6 --binary --num_workers 1 --epochs 1)
paths=(--ytvos_path "$out/data/ytvos" --coco_path "$out/data/refcoco")

step dist_pretrain.sh
"$scripts/dist_pretrain.sh" "$out/pretrain" "${network[@]}" --random_backbone "${paths[@]}" --num_frames 1
pretrained="$out/pretrain/checkpoint.pth"
step dist_train_test_refcoco.sh
"$scripts/dist_train_test_refcoco.sh" "$out/refcoco" refcoco "${network[@]}" --random_backbone "${paths[@]}" --num_frames 1
step dist_train_test_ytvos.sh
"$scripts/dist_train_test_ytvos.sh" "$out/ytvos" "$pretrained" "${network[@]}" "${paths[@]}"
step dist_train_test_ytvos_scratch.sh
"$scripts/dist_train_test_ytvos_scratch.sh" "$out/scratch" "${network[@]}" --random_backbone "${paths[@]}"
step dist_joint_train_ytvos.sh
"$scripts/dist_joint_train_ytvos.sh" "$out/joint" "${network[@]}" --random_backbone "${paths[@]}"
step dist_test_davis.sh
"$scripts/dist_test_davis.sh" "$out/davis" "$out/ytvos/checkpoint.pth" --davis_path "$out/data/davis"
step dist_train_a2d.sh
"$scripts/dist_train_a2d.sh" "$out/a2d" "$pretrained" "${network[@]}" --a2d_path "$out/data/a2d"
step dist_train_a2d_scratch.sh
"$scripts/dist_train_a2d_scratch.sh" "$out/a2d_scratch" "${network[@]}" --random_backbone --a2d_path "$out/data/a2d"
step dist_test_jhmdb.sh
"$scripts/dist_test_jhmdb.sh" "$out/jhmdb" "$out/a2d/checkpoint.pth" --jhmdb_path "$out/data/jhmdb"
step dist_train_test_mevis.sh
"$scripts/dist_train_test_mevis.sh" "$out/mevis" "${network[@]}" --random_backbone --mevis_path "$out/data/mevis"
step dist_train_test_long_rvos.sh
"$scripts/dist_train_test_long_rvos.sh" "$out/long_rvos" "${network[@]}" --random_backbone \
    --long_rvos_path "$out/data/long_rvos" --mix long_rvos=1

step "all of them ran; everything is in $out"
