"""Starts a training: `python -m trainer.launch FOLDER` is torchrun, in the environment that it needs."""

import os
import sys
from pathlib import Path

from trainer import lifeline
from trainer.spec import Spec

PROCESSES, NODES = "TRAINER_NPROC", "TRAINER_NNODES"
NODE, RENDEZVOUS = "TRAINER_NODE", "TRAINER_RENDEZVOUS"  # which of them this is, where they meet

# Every step frees and takes again hundreds of megabytes. By default glibc hands them back to the kernel each
# time, which then clears every page anew.
ALLOCATOR = "glibc.malloc.mmap_threshold=17179869184:glibc.malloc.trim_threshold=17179869184"


def environment(spec: Spec) -> dict[str, str]:
    """What must be set before the training processes start."""
    found = {
        "GLIBC_TUNABLES": ALLOCATOR,
        # threads that spin while they wait take the core from whoever generates beside the training
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONUNBUFFERED": "1",
    }
    if spec.threads:
        found["OMP_NUM_THREADS"] = str(spec.threads)
    return found


def arguments(folder: Path) -> list[str]:
    """Torchrun's command line."""
    nodes = os.environ.get(NODES, "1")
    # alone it takes any free port; among several, who is the first must not be left to chance: it speaks
    meeting = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    if nodes != "1":
        meeting = ["--rdzv-backend=static", f"--rdzv-endpoint={os.environ[RENDEZVOUS]}"]
        meeting += [f"--node-rank={os.environ.get(NODE, '0')}"]
    return [
        f"--nnodes={nodes}",
        f"--nproc-per-node={os.environ.get(PROCESSES, '1')}",
        *meeting,
        f"--rdzv-id={folder.name}",
        "--max-restarts=0",
        "-m",
        "trainer.run",
        str(folder),
    ]


def main(folder: Path) -> None:
    """Run a job's training to its end; exits as torchrun does."""
    lifeline.hold()
    os.environ.update(environment(Spec.read(folder)))
    from torch.distributed.run import main as torchrun  # seconds, of which the lifeline should not wait

    torchrun(arguments(folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
