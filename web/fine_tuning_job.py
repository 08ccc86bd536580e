"""The job that a request for a fine-tune asks for, whole and checked."""

import secrets
from dataclasses import dataclass

from sqlalchemy import Connection

from jobs import files, finetunes, trainers
from jobs.attempts import NewJob, Tier
from jobs.catalog import ModelVersion
from jobs.files import FileRecord
from jobs.finetune_input import FinetuneInput
from jobs.keys import Identity
from jobs.queue import QueueName
from web import fine_tuning_rules as rules
from web import learner as learning
from web.catalogue import Models
from web.errors import BadRequest, NotFound
from web.fine_tuning_request import FineTuningRequest
from web.learner import Learner
from web.offers import version_of
from web.webhook_requests import own_webhook

_PURPOSE = "fine-tune"
_SEED_BITS = 31
_EVENTS = tuple(f"fine_tuning.job.{end}" for end in ("succeeded", "failed", "cancelled"))
_GIB = 2**30


@dataclass(frozen=True)
class Wanted:
    """What a request asks for, as far as it and the catalog say."""

    work: FinetuneInput
    learner: Learner


def wanted(models: Models, who: Identity, asked: FineTuningRequest) -> Wanted:
    """What is to be trained, apart from its files (`given_files`) and from trainers (`refuse_impossible`).

    Raises:
        BadRequest: it does not fit itself or its model.
        NotFound: there is no such model.
        Unavailable: it is being loaded.
    """
    rules.refuse_contradictions(asked)
    base, reads = _versions(models, who, asked)
    work = _work(asked, reads)
    if work.init == "scratch":
        tokens = learning.tokenizer_size(reads, models.tokenizers) if reads else None
        rules.refuse_vocabulary(asked, base, tokens)
    learner = learning.learner_of(work, base, reads, models.tokenizers)
    rules.refuse_block(asked, learner.shape.n_positions)
    return Wanted(work, learner)


def new_job(who: Identity, asked: FineTuningRequest, work: FinetuneInput) -> NewJob:
    """The job; its files are its transaction's affair (see `wait_for_files`)."""
    return NewJob(
        id=f"ftjob-{secrets.token_hex(12)}",
        owner_id=who.owner_id,
        api_key_id=who.key_id,
        kind=finetunes.KIND,
        queue=QueueName.TRAIN,
        model=asked.model,
        tier=Tier.STANDARD,
        **asked.urgency,
        request={"metadata": asked.metadata, "user": asked.user},
        input=work.model_dump(mode="json"),
        webhook=own_webhook(asked.webhook, asked.webhook_events_filter, _EVENTS),
    )


def wait_for_files(connection: Connection, job: NewJob) -> None:
    """Keep the files of a job that was just submitted, and let it wait until the clerk has read them.

    Raises:
        BadRequest: a file that is not there, or not for training.
    """
    given_files(connection, job.owner_id, FinetuneInput.model_validate(job.input), hold=True)
    finetunes.hold(connection, job.id)


def given_files(
    connection: Connection, owner_id: int, work: FinetuneInput, hold: bool = False
) -> dict[str, FileRecord]:
    """The files by the parameters that name them; `hold` keeps them from being deleted before the commit.

    Raises:
        BadRequest: a file that is not there, or not for training.
    """
    named = {name: getattr(work, name) for name in ("training_file", "validation_file")}
    return {
        name: _for_training(files.find(connection, owner_id, file_id, hold), file_id, name)
        for name, file_id in named.items()
        if file_id
    }


def refuse_impossible(connection: Connection, asked: FineTuningRequest, wanted: Wanted) -> None:
    """Look at what the trainers said of themselves.

    Raises:
        BadRequest: none of those that are there can do what was asked for.
    """
    precision = asked.path("precision")
    for param, what in (("adapter", wanted.work.adapter), (precision, wanted.work.hyperparameters.precision)):
        if reason := trainers.refusal(connection, what):
            said = f"'{param}' cannot be \"{what}\" here: {reason.rstrip('.')}. Send another one."
            raise BadRequest(said, param=param, code="unsupported_value")
    largest = max((one.memory for one in trainers.seen(connection)), default=None)
    needed = 16 * wanted.learner.shape.parameters if wanted.work.adapter == "full" else 0
    if largest is not None and needed > largest:
        said = (
            f"Training all {wanted.learner.shape.parameters:,} parameters needs {needed / _GIB:,.1f} GiB for "
        )
        said += f"weights, gradients and optimizer, but no trainer has more than {largest / _GIB:,.1f}. "
        param = "architecture" if wanted.work.architecture else "adapter"
        said += "Send a smaller one." if wanted.work.architecture else "Send an 'adapter' such as \"lora\"."
        raise BadRequest(said, param=param, code="model_too_large")


def _versions(
    models: Models, who: Identity, asked: FineTuningRequest
) -> tuple[ModelVersion | None, ModelVersion | None]:
    """The base, and the model whose tokenizer a start from scratch takes: that of the base, unless told."""
    offers = models.offers
    if asked.init == "pretrained":
        return offers.require(asked.model, who.owner_id), None
    offer = offers.seen_by(who.owner_id).get(asked.model)
    base = None
    if offer is not None and (offer.status != "unavailable" or asked.architecture is None):
        base = version_of(asked.model, {asked.model: offer})
    else:  # a name and no more
        rules.refuse_label(asked)
    if asked.tokenizer is None:
        return base, base
    try:
        return base, offers.require(asked.tokenizer, who.owner_id)
    except NotFound as error:
        raise NotFound(str(error), param="tokenizer", code=error.code) from None


def _work(asked: FineTuningRequest, reads: ModelVersion | None) -> FinetuneInput:
    seed = asked.seed if asked.seed is not None else asked.asked.seed
    return FinetuneInput(
        training_file=asked.training_file,
        validation_file=asked.validation_file,
        suffix=asked.suffix,
        seed=seed if seed is not None else secrets.randbits(_SEED_BITS),
        adapter=asked.adapter,
        init=asked.init,
        architecture=asked.architecture,
        tokenizer=None if reads is None else reads.name,
        hyperparameters=asked.asked.chosen(),
    )


def _for_training(file: FileRecord | None, file_id: str, param: str) -> FileRecord:
    if file is None:
        said = f"There is no file '{file_id[:100]}'. Upload one with the purpose \"{_PURPOSE}\" first."
        raise BadRequest(said, param=param, code="file_not_found")
    if file.purpose != _PURPOSE:
        said = f'The file \'{file.id}\' has the purpose "{file.purpose}". Upload it with "{_PURPOSE}".'
        raise BadRequest(said, param=param, code="invalid_file_purpose")
    return file
