#!/usr/bin/env bash
# One job of SLURM: a command of histojax or launch, by its module and flags, as srun's tasks.
#
#     sbatch --nodes=2 --ntasks-per-node=1 launch/slurm.sh histojax.main \
#         --config=configs/joint.py --workdir=runs/joint
#     sbatch --array=0-5 launch/slurm.sh launch.sweep --run=configs/unet.py --seeds=0,1,2,3,4,5 \
#         --output=runs/sweep
#     sbatch --array=0-3 launch/slurm.sh histojax.predict --model=nuclei-40x --input=slides \
#         --output=out
#
# In an array, launch.sweep and histojax.predict take the share of their task. A job that is
# preempted, requeued or near its time limit saves, goes back into the queue and continues.
# DRY_RUN=1 prints the command instead. docs/guides/accelerators.md has more.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
set -euo pipefail

fail() {
  echo "histojax: $1" >&2
  exit 2
}

[ $# -gt 0 ] || fail "launch/slurm.sh has no command; give a module, such as histojax.main"
module=$1
shift
share=()
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
  # Tasks may be numbered as the array likes, but shares count from 0 and without gaps.
  # shellcheck disable=SC2153 # SLURM sets it
  last=$((SLURM_ARRAY_TASK_MIN + SLURM_ARRAY_TASK_COUNT - 1))
  [ "$SLURM_ARRAY_TASK_MAX" -eq "$last" ] ||
    fail "the array has gaps, and its tasks are shares; give it as --array=0-N"
  part=$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))
  case $module in
    launch.sweep) share=("--hosts=$SLURM_ARRAY_TASK_COUNT" "--host=$part") ;;
    histojax.predict) share=("--num_parts=$SLURM_ARRAY_TASK_COUNT" "--part=$part") ;;
    *) fail "$module cannot be shared by an array; leave --array out, or run launch.sweep" ;;
  esac
fi
# srun does not take this from sbatch.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
command=(srun --kill-on-bad-exit=1 python -m "$module" "${share[@]}" "$@")
if [ -n "${DRY_RUN:-}" ]; then
  printf '%q ' "${command[@]}"
  echo
  exit
fi

again=
# shellcheck disable=SC2317 # the trap calls it
near_limit() {
  again=yes
  scancel --signal=TERM "$SLURM_JOB_ID.0"
}
trap near_limit USR1
# Preemption and requeueing signal the tasks too, which save; srun would kill them.
trap '' TERM
"${command[@]}" &
status=0
while kill -0 $! 2>/dev/null; do
  status=0
  wait $! || status=$? # a signal ends it early
done
if [ -n "$again" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
