#!/usr/bin/env bash
#SBATCH --job-name=proxyformer
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
# sbatch [options of sbatch] scripts/slurm_train.sh SCRIPT OUTPUT_DIR [arguments of SCRIPT]: runs one of the other
# scripts on the nodes of a job. Three minutes before the job's time limit the run saves, and the job is queued again to
# continue.
set -euo pipefail
case "${1:-}" in --help | -h | --version) source "$(dirname "${BASH_SOURCE[0]}")/_common.sh" ;; esac
if (($# < 2)); then
    echo "usage: sbatch [--nodes N --gpus-per-node N ...] scripts/slurm_train.sh SCRIPT OUTPUT_DIR [arguments]" >&2
    exit 2
fi
# SLURM runs a copy of this file; the repository is the folder in which sbatch was called, or ROOT
ROOT="${ROOT:-${SLURM_SUBMIT_DIR:-$PWD}}"
[[ -x "$ROOT/scripts/$1" ]] || {
    echo "slurm_train.sh: error: $ROOT/scripts/$1 is no script; call sbatch in the repository, or set ROOT" >&2
    exit 2
}
export NNODES="$SLURM_JOB_NUM_NODES" MASTER_ADDR PORT="${PORT:-$((20000 + SLURM_JOB_ID % 20000))}"
hosts="$(scontrol show hostnames "$SLURM_JOB_NODELIST")"
MASTER_ADDR="${hosts%%$'\n'*}"
export GPUS_PER_NODE="${GPUS_PER_NODE:-${SLURM_GPUS_ON_NODE:-}}"
[[ -n "$GPUS_PER_NODE" ]] || unset GPUS_PER_NODE

asked=0 code=0
# SLURM sends SIGTERM to every process of a node: the shell scripts ignore it, torchrun and main.py react
srun --kill-on-bad-exit=1 bash -c 'trap "" TERM; NODE_RANK=$SLURM_NODEID exec "$@"' _ "$ROOT/scripts/$1" "${@:2}" &
step=$!
trap 'asked=1; kill -TERM "$step"' USR1
# A trapped signal ends "wait", too, while the job step may still be saving; it has SAVING_TIME of the three minutes.
deadline=""
while kill -0 "$step" 2>/dev/null && ((!asked || SECONDS < ${deadline:=$((SECONDS + ${SAVING_TIME:-155}))})); do
    if ((asked)); then sleep 1; else wait "$step" || true; fi
done
kill -0 "$step" 2>/dev/null || wait "$step" || code=$?
if ((asked)); then
    echo "slurm_train.sh: the time is up; the job is queued again"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
