"""Writes a model as a repository of the Hub: `python -m trainer.export FOLDER`, as the order there says."""

import errno
import sys
from pathlib import Path

from jobs.errors import DiskFull, JobError
from trainer import export_card, export_space, export_tokenizer, export_weights, lifeline
from trainer.export_order import Answer, Order


def write(order: Order) -> None:
    """Make the folder `order.model`.

    Raises:
        ModelUnavailable: the model is not what it should be.
        DiskFull: there is no room for it.
        OSError: a file cannot be read or written.
    """
    order.model.mkdir()
    made = export_weights.write(order)
    export_tokenizer.write(order, made.config)
    (order.model / "README.md").write_text(export_card.render(order, made), encoding="utf-8")
    export_space.write(order)


def main(folder: Path) -> None:
    """Do it, and answer how it went."""
    lifeline.hold()
    order = Order.read(folder)
    try:
        write(order)
        answer = Answer()
    except JobError as error:
        answer = Answer(code=error.code, message=str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        full = DiskFull("The disk of the trainer's host has become full during the export.")
        answer = Answer(code=full.code, message=str(full))
    answer.write(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
