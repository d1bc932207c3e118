#!/bin/bash
# One run by a process a GPU, on 2 nodes of 4 GPUs: sbatch launch/slurm.sh my-model.yaml
# NOT RUN under SLURM: only with the variables that srun sets, on one machine (docs/scaling.md).
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
# The run directory must be on a disk that all nodes share. Exit code 75: a process is gone.
srun --kill-on-bad-exit=0 python -m nt_jax.train --config "$1" mesh.data=2 mesh.model=4
