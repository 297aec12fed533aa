# Sourced by the other scripts. Sets ROOT (the repository) and PYTHON (the interpreter, which setup.sh makes usable).
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
PROGRAM="$(basename "$0")"

fail() {
    echo "$PROGRAM: error: $*" >&2
    exit 2
}

# An environment of the user's own goes before .venv. conda's "base" is active in every shell of many machines, so it
# is nobody's choice; PYTHON=python takes it all the same.
if [[ -n "${PYTHON:-}" ]]; then
    found="$(command -v "$PYTHON")" || fail "PYTHON=$PYTHON: there is no such program"
    [[ "$found" == /* ]] || found="$PWD/$found"
    PYTHON="$found"
else
    unset PYTHON # or a variable exported empty would hand .venv's interpreter to setup.sh as the user's own
    if [[ -n "${VIRTUAL_ENV:-}" && ! "$VIRTUAL_ENV" -ef "$ROOT/.venv" ]]; then
        PYTHON="$VIRTUAL_ENV/bin/python"
    elif [[ -z "${VIRTUAL_ENV:-}" && -n "${CONDA_PREFIX:-}" && "${CONDA_DEFAULT_ENV:-}" != base ]]; then
        PYTHON="$CONDA_PREFIX/bin/python"
    else
        PYTHON="$ROOT/.venv/bin/python"
    fi
fi

# Decides PROCESSES (of this node) and NNODES from GPUS (of all nodes), GPUS_PER_NODE, NNODES and the GPUs there are.
count_processes() {
    local name
    for name in GPUS GPUS_PER_NODE NNODES NODE_RANK PORT; do
        [[ "${!name:-0}" =~ ^(0|[1-9][0-9]*)$ ]] || fail "$name=${!name} is not a number"
    done
    NNODES="${NNODES:-1}"
    ((NNODES > 0)) || fail "NNODES=0: at least one node takes part"
    if [[ -n "${GPUS_PER_NODE:-}" ]]; then
        PROCESSES="$GPUS_PER_NODE"
    elif [[ -n "${GPUS:-}" ]]; then
        PROCESSES=$((GPUS / NNODES))
    else
        PROCESSES="$("$PYTHON" -P -c 'import torch; print(torch.cuda.device_count())')"
    fi
    ((${GPUS:-PROCESSES * NNODES} == PROCESSES * NNODES)) ||
        fail "GPUS=$GPUS is not $NNODES node(s) of $PROCESSES GPUs; check GPUS, GPUS_PER_NODE and NNODES"
    if ((NNODES > 1)); then
        ((PROCESSES > 0)) || fail "NNODES=$NNODES, but this node has no GPU"
        [[ -n "${MASTER_ADDR:-}" && -n "${NODE_RANK:-}" ]] ||
            fail "NNODES=$NNODES also needs MASTER_ADDR (of the first node) and NODE_RANK (0 on the first node)"
    fi
}

# launch SCRIPT [args]: runs one of the repository's Python programs in all processes.
launch() {
    local script="$ROOT/$1"
    shift
    if ((PROCESSES * NNODES > 1)); then
        local meet=(--standalone) # picks a free port
        if ((NNODES > 1)); then
            meet=(--nnodes "$NNODES" --node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR" --master_port "${PORT:-29500}")
        elif [[ -n "${PORT:-}" ]]; then
            meet=(--master_port "$PORT")
        fi
        "$PYTHON" -m torch.distributed.run --nproc_per_node "$PROCESSES" "${meet[@]}" "$script" "$@"
    elif ((PROCESSES == 0)); then
        CUDA_VISIBLE_DEVICES="" "$PYTHON" "$script" "$@"
    else
        "$PYTHON" "$script" "$@"
    fi
}

# train_test_ytvos OUTPUT_DIR [options of main.py]: trains, then writes OUTPUT_DIR/valid/submission.zip.
# The same command again goes on where an earlier one stopped; masks of an older checkpoint are made anew.
train_test_ytvos() {
    local output_dir="$1"
    shift
    "$ROOT/scripts/setup.sh"
    count_processes
    local checkpoint="$output_dir/checkpoint.pth"
    if [[ -e "$checkpoint" ]]; then
        echo "$PROGRAM: going on from $checkpoint"
        set -- --resume "$checkpoint" "$@"
    fi
    launch main.py "$@" --output_dir "$output_dir"
    launch inference_ytvos.py --resume "$checkpoint" --split valid --output_dir "$output_dir/valid" --overwrite
    echo "$PROGRAM: $output_dir/valid/submission.zip"
}
