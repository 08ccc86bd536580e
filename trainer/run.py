"""A process of a training: `python -m trainer.run FOLDER`, started by `trainer.launch`.

Exits with 0 once it has said `done`, `failed` or `stopped`; anything else is a crash.
"""

import errno
import logging
import os
import sys
import warnings
from datetime import timedelta
from pathlib import Path

from jobs.errors import DiskFull, JobError, OutOfMemory
from trainer import lifeline
from trainer.place import Place
from trainer.spec import Spec
from trainer.voice import Voice
from trainer.words import Failed

_PATIENCE = timedelta(hours=12)  # of the other processes while the first one tokenizes or saves


def main(folder: Path) -> None:
    """Train, or say why not."""
    lifeline.hold()
    spec = Spec.read(folder)
    place = Place.read()
    voice = Voice.open(folder) if place.speaks else Voice(None)
    try:
        _train(spec, voice, place)
    except JobError as error:
        voice.say(Failed(code=error.code, message=str(error)))
    except Exception as error:
        failure = _known(error)
        if failure is None:
            raise
        logging.exception("the training failed")
        voice.say(Failed(code=failure.code, message=str(failure)))


def _train(spec: Spec, voice: Voice, place: Place) -> None:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if place.processes == 1:  # else Trainer would take all GPUs that it sees, in threads
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    import torch  # seconds, of which the lifeline should not wait
    from transformers.utils.logging import disable_progress_bar

    from trainer.session import Session

    disable_progress_bar()  # type: ignore[no-untyped-call]
    warnings.simplefilter("ignore")  # of the libraries, about each other
    if spec.threads:
        torch.set_num_threads(spec.threads)
    if place.processes == 1:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):  # else it would be wrapped to be distributed
            os.environ.pop(name, None)
    else:
        if spec.device == "cuda":
            torch.cuda.set_device(place.on_host)
        backend = "gloo" if spec.device == "cpu" else "cpu:gloo,cuda:nccl"
        torch.distributed.init_process_group(backend, timeout=_PATIENCE)
    Session(spec, voice, place).run()
    if place.processes > 1:
        torch.distributed.destroy_process_group()


def _known(error: Exception) -> JobError | None:
    """What a failure means where trying again would not help."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return DiskFull("The trainer's disk is full. Make room, or lower 'save_total_limit'.")
    said = str(error)
    if isinstance(error, MemoryError) or "out of memory" in said or "can't allocate memory" in said:
        return OutOfMemory(
            "There was not enough memory. Lower 'batch_size' (with more 'gradient_accumulation_steps' the"
            " step stays the same) or 'block_size', or train an adapter ('lora', 'qlora')."
        )
    return None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
