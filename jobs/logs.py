"""How every process writes its log: one JSON object a line, a constant sentence and facts beside it."""

import logging
import re
import sys

import structlog

_SECRETS = (
    (re.compile(r"sk-penstock-[0-9a-f]{12}-[\w-]+"), "sk-penstock-***"),
    (re.compile(r"\b(whsec|hf)_[A-Za-z0-9+/=]{8,}"), r"\1_***"),
    (re.compile(r"(?i)\b(bearer|basic) [^\s\"',;]{8,}"), r"\1 ***"),
    (re.compile(r"(\w+://[^\s:/@]*):[^\s@/]+@"), r"\1:***@"),
    # what libraries quote of the values that they could not take: those may be prompts
    (re.compile(r"input_value=.*?, input_type="), "input_value=***, input_type="),
    (re.compile(r"(?ms)^DETAIL: .*?(?=^\[SQL: |\Z)"), "DETAIL: ***\n"),
)


def configure(process: str, level: str) -> None:
    """Send this process's log and its libraries' warnings to standard error; never prompts, never keys."""

    def name_the_process(
        _logger: object, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        return {**event, "process": process}  # a context variable would be unknown to other threads

    shared: list[structlog.typing.Processor] = [
        name_the_process,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redacted,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    for chatty in ("celery", "kombu", "amqp", "httpx2", "filelock"):
        logging.getLogger(chatty).setLevel("WARNING")


def _redacted(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """No line shows a key, a password or a value, whatever its author or a library put into it."""
    return {name: _without_secrets(value) for name, value in event.items()}


def _without_secrets(value: object) -> object:
    if isinstance(value, str):
        for secret, shown in _SECRETS:
            value = secret.sub(shown, value)
    elif isinstance(value, list | tuple):
        return [_without_secrets(one) for one in value]
    elif isinstance(value, dict):
        return {name: _without_secrets(one) for name, one in value.items()}
    elif isinstance(value, BaseException):
        return _without_secrets(str(value))
    return value
