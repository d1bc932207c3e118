#!/bin/bash
# One run by a process a GPU, on 2 nodes of 4 GPUs each; --gpus-per-node=0 for CPUs:
#     sbatch launch/slurm.sh my-model.yaml mesh.data=2 mesh.model=4
# Run with slurm 24.11 on one node of CPUs (tests/processes/test_slurm.py, docs/scaling.md).
#SBATCH --job-name=nt_jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
# A minute before the end, to all processes; what is finished is kept.
#SBATCH --signal=TERM@60
#SBATCH --requeue
set -euo pipefail
if (($# == 0)); then
    echo "launch/slurm.sh: no recipe; sbatch launch/slurm.sh RECIPE [section.key=value ...]" >&2
    exit 2
fi
# The run directory must be on a disk that all nodes share. Exit code 75: a process is gone.
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=0 \
    python -m nt_jax.train --config "$@"
