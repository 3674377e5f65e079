#!/usr/bin/env bash
# A command of histojax on every host of a TPU slice, by its module and flags.
#
#     TPU=slice ZONE=us-central2-b launch/tpu.sh histojax.main \
#         --config=configs/joint.py:gpu --workdir=/mnt/shared/joint
#
# Each host has the repository in FOLDER (default: histojax, in the home folder), installed, and the
# workdir on a file system that all share. After a preemption the same command continues.
# DRY_RUN=1 prints the command instead.
set -euo pipefail

fail() {
  echo "histojax: $1" >&2
  exit 2
}

[ $# -gt 0 ] || fail "launch/tpu.sh has no command; give a module, such as histojax.main"
[ -n "${TPU:-}" ] || fail "TPU is not set; give the slice's name, as gcloud lists it"
[ -n "${ZONE:-}" ] || fail "ZONE is not set; give the slice's zone, such as us-central2-b"
printf -v remote '%q ' cd "${FOLDER:-histojax}"
printf -v words '%q ' python3 -m "$@"
command=(gcloud compute tpus tpu-vm ssh "$TPU" "--zone=$ZONE" --worker=all
  "--command=$remote&& exec $words")
if [ -n "${DRY_RUN:-}" ]; then
  printf '%q ' "${command[@]}"
  echo
  exit
fi
exec "${command[@]}"
