# Sourced by the other scripts. Sets ROOT (the repository) and PYTHON (the interpreter, for which setup.sh installs).
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
PROGRAM="$(basename "$0")"

fail() {
    echo "$PROGRAM: error: $*" >&2
    exit 2
}

# --help: the comment at the top of a script, without the options for sbatch, says how it is used.
if [[ "${1:-}" == --help || "${1:-}" == -h ]]; then
    sed -nE '2,/^[^#]/s/^#( |$)//p' "$0"
    exit
fi

# --version: read from the file, because it needs no environment.
if [[ "${1:-}" == --version ]]; then
    sed -n 's/^VERSION = "\(.*\)"$/ProxyFormer \1/p' "$ROOT/util/run/version.py"
    exit
fi

# An active environment of the user comes before .venv. On many machines conda's "base" is active in every shell without
# being chosen, so it is skipped; PYTHON=python takes it.
if [[ -n "${PYTHON:-}" ]]; then
    found="$(command -v "$PYTHON")" || fail "PYTHON=$PYTHON: there is no such program"
    [[ "$found" == /* ]] || found="$PWD/$found"
    PYTHON="$found"
else
    unset PYTHON # if it is exported and empty, setup.sh would get .venv's interpreter as one that the user has chosen
    if [[ -n "${VIRTUAL_ENV:-}" && ! "$VIRTUAL_ENV" -ef "$ROOT/.venv" ]]; then
        PYTHON="$VIRTUAL_ENV/bin/python"
    elif [[ -z "${VIRTUAL_ENV:-}" && -n "${CONDA_PREFIX:-}" && "${CONDA_DEFAULT_ENV:-}" != base ]]; then
        PYTHON="$CONDA_PREFIX/bin/python"
    else
        PYTHON="$ROOT/.venv/bin/python"
    fi
fi

# version_of PYTHON: prints its version, as 3.11.7; fails if it does not run.
version_of() { "$1" -I -S -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null; }
recent() { [[ "$1" =~ ^3\.([0-9]+)\. ]] && ((BASH_REMATCH[1] >= 11)); }

# recent_python [PYTHON]: prints the first that is recent enough, of PYTHON and those on the PATH; fails if none is.
recent_python() {
    local name version
    for name in "$@" python3 python3.14 python3.13 python3.12 python3.11; do
        if version="$(version_of "$name")" && recent "$version"; then
            echo "$name"
            return
        fi
    done
    return 1
}

# check_numbers: fails if a variable of the environment that has to be a number is none.
check_numbers() {
    local name
    for name in GPUS GPUS_PER_NODE NNODES NODE_RANK PORT MAX_RESTARTS; do
        [[ "${!name:-0}" =~ ^(0|[1-9][0-9]*)$ ]] || fail "$name=${!name} is not a number"
    done
}

# Sets PROCESSES (of this node) and NNODES from GPUS (of all nodes), GPUS_PER_NODE, NNODES and the GPUs of this node.
count_processes() {
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
        # a run that is asked to stop ends its step and saves; torchrun has to pass on all signals that ask for it
        local signals="${TORCHELASTIC_SIGNALS_TO_HANDLE:-SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1}"
        export TORCHELASTIC_SIGNALS_TO_HANDLE="$signals" PET_SIGNALS_TO_HANDLE="$signals" # the name in newer torch
        export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-150}" # seconds to save before the run is killed
        local code=0
        PROXYFORMER_STOPPED="$(mktemp)"
        export PROXYFORMER_STOPPED
        "$PYTHON" -m torch.distributed.run --nproc_per_node "$PROCESSES" --max_restarts "${MAX_RESTARTS:-0}" \
            "${meet[@]}" "$script" "$@" || code=$?
        if ((code)); then # torchrun turns every exit code into 1
            case "$(<"$PROXYFORMER_STOPPED")" in stopped*) code=75 ;; incomplete*) code=3 ;; esac
        fi
        rm -f "$PROXYFORMER_STOPPED"
        return "$code"
    elif ((PROCESSES == 0)); then
        CUDA_VISIBLE_DEVICES="" "$PYTHON" "$script" "$@"
    else
        "$PYTHON" "$script" "$@"
    fi
}

# arguments "NAME ..." "FURTHER ARGUMENTS" "$@": prints the usage and fails unless each NAME has its argument.
arguments() {
    local names="$1" rest="$2" name
    shift 2
    for name in $names; do
        if (($# == 0)) || [[ "$1" == -* ]]; then
            echo "usage: [GPUS=N] [PORT=N] $PROGRAM $names $rest" >&2
            exit 2
        fi
        shift
    done
}

# needs_file NAME FILE: fails if FILE, the argument called NAME, does not exist and is no owner/name on the hub, by the rules
# of util/weights/hub.py.
needs_file() {
    local LC_ALL=C word='[[:alnum:]_]'
    [[ ! -f "$2" ]] || return 0
    [[ ! -e "$2" && ! -d "${2%/*}" && "$2" != *--* && "$2" != *..* &&
        "$2" =~ ^$word([[:alnum:]_.-]*$word)?/$word([[:alnum:]_-]*$word)?$ ]] ||
        fail "$1 $2: there is no such file; see pretrained_weights/README.md"
}

# holds_run OUTPUT_DIR: whether a run in it can go on, which needs no weights to start from.
holds_run() { compgen -G "$1/checkpoint*.pth" >/dev/null; }

# option_value NAME DEFAULT "$@": prints the value that an option has among the arguments.
option_value() {
    local name="$1" value="$2"
    shift 2
    while (($#)); do
        case "$1" in
            "$name") value="${2:-}" ;;
            "$name="*) value="${1#*=}" ;;
        esac
        shift
    done
    echo "$value"
}

# check_options [options of the script's program]: fails where it could not start with them; needs no packages.
check_options() {
    local python said
    python="$(recent_python "$PYTHON")" || return 0 # setup.sh says what is needed
    said="$("$python" -P -S "$ROOT/scripts/check_options.py" "$PROGRAM" "$@" 2>&1)" || {
        echo "$said" >&2
        exit 2
    }
}

# prepare [OUTPUT_DIR, options of main.py]: checks what train will be given, runs setup.sh, and sets how many processes to
# start.
prepare() {
    check_numbers
    (($# == 0)) || check_options --resume auto "${@:2}" --output_dir "$1"
    "$ROOT/scripts/setup.sh"
    count_processes
}

# train OUTPUT_DIR [options of main.py]: trains; continues from the newest checkpoint in OUTPUT_DIR, if there is one.
train() {
    launch main.py --resume auto "${@:2}" --output_dir "$1"
}

# tolerate COMMAND …: runs it. Exit code 3 means that the command has left out some items: the script goes on and ends
# with code 3. Any other code except 0 ends the script at once.
left_out=0
tolerate() {
    local code=0
    "$@" || code=$?
    ((code == 0 || code == 3)) || exit "$code"
    ((code == 0)) || left_out=3
}
trap 'code=$?; ((code)) || exit "$left_out"' EXIT

# score OUTPUT_DIR SPLIT ...: scores the checkpoint that train has written, on each split of its data set.
score() {
    local output_dir="$1" split
    shift
    for split in "$@"; do
        tolerate launch main.py --eval --eval_split "$split" --resume "$output_dir/checkpoint.pth" --output_dir "$output_dir"
    done
}

# submit OUTPUT_DIR SCRIPT [its options]: makes OUTPUT_DIR/valid/submission.zip with an inference script; masks of an older
# checkpoint are replaced.
submit() {
    launch "$2" --resume "$1/checkpoint.pth" --split valid --output_dir "$1/valid" --overwrite "${@:3}"
    echo "$PROGRAM: $1/valid/submission.zip"
}
