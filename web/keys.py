"""`python -m web.keys create|list|revoke|erase`: who may ask, for what, and how much; and who leaves."""

import argparse
import sys
from dataclasses import asdict

from sqlalchemy.exc import ProgrammingError

from jobs import erasing, keys, settings
from jobs.database import Database
from jobs.errors import BadSetting, DatabaseUnavailable
from jobs.keys import SCOPES, USUAL_SCOPES, KeyRecord, Limits
from jobs.queue import make_signals

_LIMITS = {
    "requests_per_minute": "requests in any minute",
    "tokens_per_minute": "tokens in any minute: of prompts, and the most that is written for them",
    "queued_jobs": "jobs that wait",
    "concurrent_jobs": "jobs that wait or run",
}


class Refused(Exception):
    """What was asked for cannot be done; the message says what to do instead."""


def main(arguments: list[str] | None = None) -> int:
    """Do what is asked and return the exit status; a new key is printed alone, for scripts to read."""
    asked = _parser().parse_args(arguments)
    try:
        said = _run(asked, settings.read())
    except (BadSetting, Refused) as error:
        sys.stderr.write(f"{error}\n")
    except DatabaseUnavailable as error:
        sys.stderr.write(f"The database cannot be reached ({error}). Start the stack, then ask again.\n")
    except ProgrammingError:
        sys.stderr.write("The database has no tables yet: wait until the stack says that it is up.\n")
    else:
        sys.stdout.write(said)
        return 0
    return 2


def _run(asked: argparse.Namespace, config: settings.Settings) -> str:
    database = Database(config.database, connections=1)
    try:
        if asked.command == "erase":
            return _erased(database, config, asked.owner)
        with database.transaction() as connection:
            match asked.command:
                case "create":
                    limits = Limits(**{name: getattr(asked, name) for name in _LIMITS})
                    return keys.issue(connection, asked.owner, asked.scopes, limits) + "\n"
                case "list":
                    return _table(keys.issued(connection, asked.owner))
                case _:
                    if not keys.revoke(connection, asked.key):
                        said = (
                            f"There is no key that begins with {asked.key[:24]!r}, or it is revoked already."
                        )
                        raise Refused(f"{said} See: python -m web.keys list")
                    return ""
    finally:
        database.close()


def _erased(database: Database, config: settings.Settings, owner: str) -> str:
    signals = make_signals(config)
    try:
        gone = erasing.erase(database, owner, signals.erase)
    finally:
        signals.close()
    if gone is None:
        raise Refused(f"There is no owner {owner!r}. See: python -m web.keys list")
    return "".join(f"{count} {what}\n" for what, count in gone.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m web.keys", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="print a new key, which is shown only now")
    create.add_argument("--owner", required=True, type=_owner, help="whose; may have several keys")
    create.add_argument(
        "--scopes", type=_scopes, default=USUAL_SCOPES, help=f"of {', '.join(SCOPES)}; default: the first two"
    )
    for name, what in _LIMITS.items():
        flag = f"--{name.replace('_', '-')}"
        create.add_argument(flag, type=_count, metavar="N", help=f"most {what}; default: no limit")
    shown = commands.add_parser("list", help="show all keys, each by its first characters")
    shown.add_argument("--owner", help="only the keys of this owner")
    revoke = commands.add_parser("revoke", help="end a key within seconds")
    revoke.add_argument("key", help="its first characters, as list shows them, or all of it")
    erase = commands.add_parser("erase", help="delete an owner with everything it has here, for ever")
    erase.add_argument("--owner", required=True, help="whose; its keys end first")
    return parser


def _scopes(text: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if wrong := [scope for scope in found if scope not in SCOPES]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is no scope; name some of {', '.join(SCOPES)}")
    return found


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:20]) < 2**31):
        raise argparse.ArgumentTypeError(f"{text!r} is no limit; send a whole number from 1 to {2**31 - 1}")
    return int(text)


def _owner(text: str) -> str:
    if not (text.strip() == text and text.isprintable() and 0 < len(text) <= 100):
        raise argparse.ArgumentTypeError("an owner has a name of 1 to 100 printable characters")
    return text


def _table(found: list[KeyRecord]) -> str:
    rows = [("KEY", "OWNER", "SCOPES", "LIMITS", "CREATED", "STATE")]
    for key in found:
        limits = [f"{name}={most}" for name, most in asdict(key.limits).items() if most is not None]
        ended = "works" if key.revoked_at is None else f"revoked {key.revoked_at:%Y-%m-%d %H:%M}"
        made = f"{key.created_at:%Y-%m-%d %H:%M}"
        rows.append((key.prefix, key.owner, ",".join(key.scopes), " ".join(limits) or "none", made, ended))
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n"
        for row in rows
    )


if __name__ == "__main__":
    sys.exit(main())
