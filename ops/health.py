"""Whether the process of this container does its work, as the server that it works with sees it.

python ops/health.py web               it answers HTTP
python ops/health.py database SECONDS  it spoke to PostgreSQL in the last SECONDS
python ops/health.py broker            it waits for messages in Redis
"""

import os
import sys
import urllib.request
from pathlib import Path

_WAIT = 5  # seconds for a server to answer
_SILENT = 30  # seconds; one that waits for messages asks again about every second


def web() -> bool:
    """Whether web answers."""
    with urllib.request.urlopen("http://127.0.0.1:8000/healthz", timeout=_WAIT) as answer:
        return bool(answer.status == 200)


def database(seconds: float) -> bool:
    """Whether a connection from this container, other than ours, did anything in the last `seconds`."""
    import psycopg  # here and below: a check shall cost no more than it must

    with psycopg.connect(_secret("database_url"), connect_timeout=_WAIT) as connection:
        row = connection.execute(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE client_addr = inet_client_addr() "
            "AND pid <> pg_backend_pid() AND state_change > now() - make_interval(secs => %s))",
            [seconds],
        ).fetchone()
        return row is not None and bool(row[0])


def broker() -> bool:
    """Whether a connection from this container waits in a queue."""
    import redis

    with redis.Redis.from_url(_secret("redis_url"), socket_timeout=_WAIT, decode_responses=True) as client:
        here = _host(client.client_info())
        return any(
            _host(each) == here and each["cmd"] == "brpop" and int(each["idle"]) < _SILENT
            for each in client.client_list()
        )


def _host(client: dict[str, str]) -> str:
    return client["addr"].rpartition(":")[0]


def _secret(name: str) -> str:
    return (Path(os.environ["SECRETS_DIR"]) / name).read_text()


def main() -> int:
    """0: it works."""
    match sys.argv[1:]:
        case ["web"]:
            works = web()
        case ["database", seconds]:
            works = database(float(seconds))
        case ["broker"]:
            works = broker()
        case _:
            sys.stderr.write(__doc__ or "")
            return 2
    return 0 if works else 1


if __name__ == "__main__":
    sys.exit(main())
