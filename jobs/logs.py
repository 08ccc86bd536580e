"""How every process writes its log: one JSON object a line, a constant sentence and facts beside it."""

import logging
import sys

import structlog


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
