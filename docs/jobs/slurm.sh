#!/bin/bash
#SBATCH --job-name=fcn8s
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=4:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
# A job of two machines with four GPUs each. Two minutes before its time is over SLURM sends SIGUSR1 to the processes: the
# step is finished, the state saved, and the job asks to run again. Preempted jobs (SIGTERM) go the same way.
set -u

run() {
    srun --kill-on-bad-exit=1 torchrun \
        --nnodes "$SLURM_NNODES" --nproc-per-node 4 --max-restarts 3 \
        --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$(scontrol show hostnames | head -n 1):29500" \
        -m fullconv train "voc2011:$HOME/VOCdevkit/VOC2011" --recipe staged --weights vgg16.safetensors \
        --batch-size 8 --out "$HOME/runs/fcn8s" --resume --max-time 3:55:00
}

run
# Finished runs have a net and a report in RUN itself.
[ -e "$HOME/runs/fcn8s/report.html" ] || scontrol requeue "$SLURM_JOB_ID"
