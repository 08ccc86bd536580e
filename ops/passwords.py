"""Makes the passwords of a stack of containers on its first start, each where only its readers find it.

python ops/passwords.py              all of them, unless they are there already
python ops/passwords.py NAME < FILE  one more setting that no environment shall show, such as hf_token
"""

import hashlib
import os
import re
import secrets
import sys
from pathlib import Path

VOLUMES = Path("/secrets")
APP_UID, POSTGRES_UID, REDIS_UID = 10001, 999, 10002


def make() -> None:
    """Write every password, the application's last: once it is there, all are."""
    if (VOLUMES / "app" / "redis_url").exists():
        return
    database, broker = secrets.token_hex(32), secrets.token_hex(32)
    role = f"CREATE ROLE penstock LOGIN PASSWORD '{database}';\nCREATE DATABASE penstock OWNER penstock;\n"
    digest = hashlib.sha256(broker.encode()).hexdigest()
    users = f"user default off\nuser penstock on #{digest} ~* &* +@all -@admin -@dangerous +client|list\n"
    keep("postgres", "superuser_password", secrets.token_hex(32), POSTGRES_UID)
    keep("postgres", "role.sql", role, POSTGRES_UID)
    keep("redis", "users.acl", users, REDIS_UID)
    keep("redis", "password", broker, REDIS_UID)
    keep("app", "database_url", f"postgresql://penstock:{database}@postgres:5432/penstock", APP_UID)
    keep("app", "redis_url", f"redis://penstock:{broker}@redis:6379/0", APP_UID)


def keep(volume: str, name: str, text: str, uid: int) -> None:
    """Write one file, whole or not at all, that only `uid` can read."""
    aside = VOLUMES / volume / f".{name}"
    aside.unlink(missing_ok=True)
    aside.touch(mode=0o600)
    aside.write_text(text)
    aside.chmod(0o400)
    os.chown(aside, uid, uid)
    aside.rename(VOLUMES / volume / name)


def main() -> int:
    """Make what is missing, or keep the one setting that is named."""
    match sys.argv[1:]:
        case []:
            make()
        case [name] if re.fullmatch("[a-z_]+", name):
            keep("app", name, sys.stdin.read().strip(), APP_UID)
        case _:
            sys.stderr.write(__doc__ or "")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
