"""Why a job or a request did not get its result: one tree, policy on the class.

PenstockError
├── JobError                 ends or interrupts an attempt; `code` is shown to clients and never renamed
│   ├── InvalidPrompt        the request cannot be run by this model
│   ├── InvalidTrainingFile  the data cannot be trained on; InvalidValidationFile likewise
│   ├── TrainingDiverged     the loss is no number any more
│   ├── TrainingStalled      the training made no step for long; tried again
│   ├── TrainingCrashed      the training's process died; tried again
│   ├── TrainingPaused       its owner let it rest; tried again, not charged
│   ├── DiskFull             no room for the checkpoints, or for an export
│   ├── HubFailed            the Hub did not take an export
│   ├── ModelUnavailable     this worker does not have the model
│   ├── NumericalError       NaN or infinity in the logits of this sequence
│   ├── OutOfMemory          the device had no room; tried again
│   ├── WorkerStopping       our own shutdown; tried again, not charged
│   ├── Poisoned             its worker died with it three times
│   ├── DeadlineExceeded     no worker could begin it in the time it was given
│   └── Unexpected           a defect of ours; tried again
├── DatabaseUnavailable      nothing was accepted, try again
├── StorageFailed            the artifact store has no room, or is out of reach; nothing was kept
│   └── ArtifactDamaged      its bytes are not those that were kept
└── BadSetting               the stack cannot start like this
"""


class PenstockError(Exception):
    """Every error that Penstock raises on purpose."""


class JobError(PenstockError):
    """An attempt ended without a result."""

    code = "server_error"
    retryable = False
    charged = True  # counts towards the job's allowed failures


class InvalidPrompt(JobError):
    """The prompt or its limits do not fit the model that is to run it."""

    code = "invalid_prompt"


class InvalidTrainingFile(JobError):
    """The training file is not what it should be; the message names lines."""

    code = "invalid_training_file"


class InvalidValidationFile(JobError):
    """The validation file is not what it should be; the message names lines."""

    code = "invalid_validation_file"


class TrainingDiverged(JobError):
    """The loss turned NaN or infinite; the last good checkpoint stays."""

    code = "training_diverged"


class TrainingStalled(JobError):
    """The training made no step for so long that its process was ended."""

    code = "training_stalled"
    retryable = True


class TrainingCrashed(JobError):
    """The process of the training died, of a crash or for want of memory."""

    code = "training_crashed"
    retryable = True


class TrainingPaused(JobError):
    """Its owner wished that it rests; it goes on from its checkpoint when resumed."""

    code = "training_paused"
    retryable = True
    charged = False


class DiskFull(JobError):
    """The trainer's disk has too little room."""

    code = "insufficient_storage"


class HubFailed(JobError):
    """The Hub refused what was pushed, or could not be reached; the message says which."""

    code = "hub_failed"


class ModelUnavailable(JobError):
    """The model's source could not be had; the message says why."""

    code = "model_unavailable"


class NumericalError(JobError):
    """The logits of this sequence were not finite."""

    code = "numerical_error"


class OutOfMemory(JobError):
    """The device had no room for this sequence."""

    code = "out_of_memory"
    retryable = True


class WorkerStopping(JobError):
    """The worker was asked to stop before the job was done."""

    code = "worker_stopping"
    retryable = True
    charged = False


class Poisoned(JobError):
    """The job's worker died with it again and again."""

    code = "poisoned"


class DeadlineExceeded(JobError):
    """The job's deadline passed while it waited."""

    code = "deadline_exceeded"


class Unexpected(JobError):
    """The attempt crashed; the log of the worker has the trace."""

    code = "server_error"
    retryable = True


class DatabaseUnavailable(PenstockError):
    """PostgreSQL could not be reached; nothing was written."""


class StorageFailed(PenstockError):
    """The artifact store could not keep something; nothing half-written is left."""


class ArtifactDamaged(StorageFailed):
    """The bytes of an artifact are not what its name says."""


class BadSetting(PenstockError):
    """A setting, a port or a folder that the stack cannot start with."""
