"""Every knob of every process, read once from the environment and `.env`."""

import os
import re
import socket
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from jobs import embedded, failpoints
from jobs.errors import BadSetting


def _absolute(folder: str | Path) -> Path:
    return Path(folder).expanduser().resolve()


_KNOWN_PASSWORDS = {
    "admin", "changeit", "changeme", "change-me", "default", "example", "guest", "letmein", "pass",
    "passw0rd", "password", "penstock", "postgres", "redis", "root", "secret", "test", "your-password",
    "123456", "12345678",
}  # fmt: skip
"""Of examples and images: whoever looks for open servers tries these first."""


def _guarded(url: str) -> str:
    """Refuses a URL whose password anybody would guess."""
    found = urlsplit(url)
    given = [unquote(found.password or ""), *parse_qs(found.query).get("password", [])]
    guessed = _KNOWN_PASSWORDS | {unquote(found.username or "").lower()}
    if any(password and password.lower() in guessed for password in given):
        raise ValueError(
            "its password is one of those that everybody tries first; make one of your own, such as"
            " `openssl rand -hex 32` prints, for the server and here"
        )
    return url


def _postgres(url: str | None) -> str | None:
    if url and not re.match(r"postgres(ql)?(\+psycopg)?://", url):
        raise ValueError("send a PostgreSQL URL: postgresql://user:password@host/database")
    return _guarded(url) if url else url


def _redis(url: str | None) -> str | None:
    if url and not re.match(r"(rediss?|unix)://", url):
        raise ValueError("send a Redis URL: redis://host:6379/0, rediss:// or unix://")
    return _guarded(url) if url else url


def _log_level(level: str) -> str:
    if level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ValueError("send one of DEBUG, INFO, WARNING, ERROR")
    return level.upper()


def _blank_is_unset(value: str | None) -> str | None:
    return value or None


@dataclass(frozen=True)
class ModelSource:
    """One entry of MODELS: where a model comes from and how it is quantized (None: the device's default)."""

    name: str
    source: str
    quantization: str | None


_ENTRY = re.compile(r"(?P<name>[\w.:/-]+)=(?P<source>[^=@]+)(@(?P<quantization>\w+))?")


def _sources(models: str) -> tuple[ModelSource, ...]:
    found: dict[str, ModelSource] = {}
    for entry in filter(None, (part.strip() for part in models.split(","))):
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise ValueError(f"{entry!r} is not name=source or name=source@quantization")
        if match["name"] in found:
            raise ValueError(f"the name {match['name']!r} is there twice")
        found[match["name"]] = ModelSource(match["name"], match["source"].strip(), match["quantization"])
    if not found:
        raise ValueError("there must be at least one name=source")
    return tuple(found.values())


def _parsable_models(models: str) -> str:
    _sources(models)
    return models


OptionalText = Annotated[str | None, BeforeValidator(_blank_is_unset)]


class Settings(BaseSettings):
    """One process's settings. Seconds, megabytes and days are in the names, as in the environment."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True)

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    var_dir: Annotated[Path, BeforeValidator(_absolute)] = Path("var").resolve()
    # name=source[@quantization], comma-separated; a source is a folder or a Hugging Face Hub id
    models: Annotated[str, AfterValidator(_parsable_models)] = "starter=models/starter"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    kernel: Literal["auto", "torch"] = "auto"  # torch: leave the C++ kernel out where it could serve
    slots: int = Field(default=32, ge=1, le=1024)  # most sequences in one batch, per model
    memory_gb: float = Field(default=0, ge=0, allow_inf_nan=False)  # of all models; 0: a share of it all
    token_budget: int = Field(default=0, ge=0)  # rows of one step: next tokens, then prompts; 0: SLOTS + 96
    torch_threads: int = Field(default=0, ge=0)  # of one step; 0: one per core

    database_url: Annotated[OptionalText, AfterValidator(_postgres)] = (
        None  # unset: PostgreSQL inside var_dir
    )
    redis_url: Annotated[OptionalText, AfterValidator(_redis)] = None  # unset: Redis inside var_dir
    artifacts_url: OptionalText = None  # unset: a folder inside var_dir
    hf_token: OptionalText = None  # for gated models of the Hugging Face Hub

    lease_seconds: float = Field(default=30, ge=1)  # a silent worker loses its jobs after this
    heartbeat_seconds: float = Field(default=5, gt=0)
    step_timeout_seconds: float = Field(default=60, gt=0)  # a worker whose device stands still so long ends
    drain_seconds: float = Field(default=20, ge=5)  # Ctrl-C and SIGTERM end everything within this
    max_failures: int = Field(default=3, ge=1)  # charged failures of a job before it has failed
    retention_days: float = Field(default=30, gt=0)  # finished jobs are deleted after this
    max_backlog_seconds: float = Field(default=14_400, ge=0)  # more work waits: creates get 429; 0: no limit
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(default=0, ge=0, le=65531)  # of web; the others count on from it; 0: none

    trainer_nproc: int = Field(default=0, ge=0)  # processes of one training; 0: one per GPU, or one
    trainer_nnodes: int = Field(default=1, ge=1)  # hosts of one training
    trainer_node: int = Field(default=0, ge=0)  # 0: this host's trainer claims; others join it
    trainer_rendezvous: OptionalText = None  # host:port of the first of several hosts

    web_processes: int = Field(default=1, ge=1)
    web_connections: int = Field(default=4096, ge=1)  # of one process; long polls and streams hold theirs
    max_body_mb: float = Field(default=4, gt=0)
    max_file_mb: float = Field(default=512, gt=0)  # of one uploaded file
    sync_wait_seconds: float = Field(default=600, gt=0)  # a synchronous call is answered 503 after this
    webhook_allow_private: bool = False  # webhooks may go to plain http and to private networks
    log_level: Annotated[str, AfterValidator(_log_level)] = "INFO"
    worker_name: OptionalText = None  # unset: the host's name; two workers on one host need two names

    @property
    def lease(self) -> timedelta:
        """How long a claim lasts without a heartbeat."""
        return timedelta(seconds=self.lease_seconds)

    @cached_property
    def database(self) -> str:
        """The SQLAlchemy URL of PostgreSQL."""
        url = self.database_url or embedded.postgres_url(self.var_dir)
        for scheme in ("postgres://", "postgresql://"):
            if url.startswith(scheme):
                url = "postgresql+psycopg://" + url.removeprefix(scheme)
        return url

    @property
    def redis(self) -> str:
        """The redis-py URL of Redis."""
        return self.redis_url or embedded.redis_url(self.var_dir)

    @property
    def artifacts(self) -> str:
        """The fsspec URL of the artifact store."""
        return self.artifacts_url or f"file://{self.var_dir / 'artifacts'}"  # fsspec takes the path as it is

    @property
    def stop_seconds(self) -> float:
        """How long Penstock's processes have to stop; PostgreSQL and Redis need what is left."""
        return self.drain_seconds - 3

    @property
    def drain(self) -> timedelta:
        """How long a worker goes on with what it has; the rest is for the commits and its threads."""
        return timedelta(seconds=max(0.5, self.stop_seconds - 3))

    @property
    def threads(self) -> int:
        """How many threads share one step."""
        return self.torch_threads or len(os.sched_getaffinity(0))

    @property
    def rows_per_step(self) -> int:
        """The most tokens that go through a model in one pass."""
        return self.token_budget or self.slots + 96

    @property
    def sources(self) -> tuple[ModelSource, ...]:
        """The models that this host's worker shall offer."""
        return _sources(self.models)

    @property
    def worker(self) -> str:
        """The name under which this host's worker offers its models."""
        return self.worker_name or socket.gethostname()


def read() -> Settings:
    """This process's settings.

    Raises:
        BadSetting: a variable does not parse; the message names it and says what it takes.
    """
    try:
        # a folder of files named as the settings, for passwords that no environment shall show
        settings = Settings(_secrets_dir=os.environ.get("SECRETS_DIR"))
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        name = str(first["loc"][0]).upper() if first["loc"] else "a setting"
        raise BadSetting(
            f"{name} in the environment or .env: {first['msg'].removeprefix('Value error, ')}."
        ) from None
    failpoints.check()
    if settings.heartbeat_seconds * 2 > settings.lease_seconds:
        raise BadSetting(
            f"HEARTBEAT_SECONDS ({settings.heartbeat_seconds:g}) must be at most half of LEASE_SECONDS "
            f"({settings.lease_seconds:g}), or one late heartbeat would lose every job."
        )
    if settings.trainer_nnodes > 1 and settings.trainer_rendezvous is None:
        raise BadSetting(
            f"TRAINER_NNODES is {settings.trainer_nnodes}, so all of these hosts must know where to meet:"
            " set TRAINER_RENDEZVOUS to host:port of the first."
        )
    if settings.rows_per_step <= settings.slots:
        raise BadSetting(
            f"TOKEN_BUDGET ({settings.token_budget}) must be larger than SLOTS ({settings.slots}), "
            "or no prompt could join a full batch."
        )
    return settings
