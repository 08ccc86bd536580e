"""The job that a request for a fine-tune asks for, whole and checked."""

import secrets

from sqlalchemy import Connection

from jobs import files, finetunes
from jobs.attempts import STANDARD, NewJob
from jobs.files import FileRecord
from jobs.finetune_input import FinetuneInput, Hyperparameters
from jobs.keys import Identity
from jobs.queue import QueueName
from web.catalogue import Models
from web.errors import BadRequest
from web.fine_tuning_request import FineTuningRequest
from web.webhook_requests import own_webhook

_PURPOSE = "fine-tune"
_SEED_BITS = 31
_EVENTS = tuple(f"fine_tuning.job.{end}" for end in ("succeeded", "failed", "cancelled"))


def new_job(models: Models, who: Identity, asked: FineTuningRequest) -> NewJob:
    """The job, apart from its files (see `wait_for_files`).

    Raises:
        BadRequest: it does not fit itself.
        NotFound: there is no such model.
    """
    models.offers.require(asked.model, who.owner_id)
    work = FinetuneInput(
        training_file=asked.training_file,
        validation_file=asked.validation_file,
        suffix=asked.suffix,
        seed=asked.seed if asked.seed is not None else secrets.randbits(_SEED_BITS),
        hyperparameters=Hyperparameters.model_validate(asked.chosen.model_dump()),
    )
    return NewJob(
        id=f"ftjob-{secrets.token_hex(12)}",
        owner_id=who.owner_id,
        api_key_id=who.key_id,
        kind=finetunes.KIND,
        queue=QueueName.TRAIN,
        model=asked.model,
        behind=STANDARD,
        request={"metadata": asked.metadata, "user": asked.user},
        input=work.model_dump(mode="json"),
        webhook=own_webhook(asked.webhook, asked.webhook_events_filter, _EVENTS),
    )


def wait_for_files(connection: Connection, job: NewJob) -> None:
    """Keep the files of a job that was just submitted, and let it wait until they are read.

    Raises:
        BadRequest: a file that is not there, or not for training.
    """
    given = {name: job.input[name] for name in ("training_file", "validation_file") if job.input[name]}
    found = [
        _for_training(files.find(connection, job.owner_id, file_id, hold=True), file_id, name)
        for name, file_id in given.items()
    ]
    if any(file.status != "processed" for file in found):
        finetunes.hold(connection, job.id)


def _for_training(file: FileRecord | None, file_id: str, param: str) -> FileRecord:
    if file is None:
        said = f"There is no file '{file_id[:100]}'. Upload one with the purpose \"{_PURPOSE}\" first."
        raise BadRequest(said, param=param, code="file_not_found")
    if file.purpose != _PURPOSE:
        said = f'The file \'{file.id}\' has the purpose "{file.purpose}". Upload it with "{_PURPOSE}".'
        raise BadRequest(said, param=param, code="invalid_file_purpose")
    return file
