"""Who runs, and who stops first."""

import configparser
import shlex
from pathlib import Path

from jobs.settings import Settings
from stack.processes import app_commands, configuration
from tests.conftest import ROOT


def read(settings: Settings) -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None)
    found.read_string(configuration(settings))
    return found


def test_the_procfile_runs_the_same_processes() -> None:
    lines = [line for line in (ROOT / "Procfile").read_text().splitlines() if not line.startswith("#")]
    named = {name: shlex.split(command) for name, command in (line.split(": ", 1) for line in lines)}
    assert named == app_commands("python")


def test_the_servers_stop_last(tmp_path: Path) -> None:
    programs = read(Settings(var_dir=tmp_path))
    groups = {name: int(programs[f"group:{name}"]["priority"]) for name in ("servers", "app")}
    assert groups["servers"] < groups["app"], "supervisord stops the group with the highest priority first"
    assert programs["group:servers"]["programs"] == "postgres,redis"


def test_web_refuses_newcomers_before_the_workers_end(tmp_path: Path) -> None:
    programs = read(Settings(var_dir=tmp_path))
    ranks = {name: int(programs[f"program:{name}"]["priority"]) for name in app_commands("python")}
    assert sorted(ranks, key=ranks.__getitem__, reverse=True) == [
        "web",
        "worker",
        "trainer",
        "clerk",
        "sweeper",
    ]


def test_whoever_stops_has_the_time_that_the_settings_give(tmp_path: Path) -> None:
    settings = Settings(var_dir=tmp_path, drain_seconds=30)
    programs = read(settings)
    longest = max(int(programs[f"program:{name}"]["stopwaitsecs"]) for name in app_commands("python"))
    servers = max(int(programs[f"program:{name}"]["stopwaitsecs"]) for name in ("postgres", "redis"))
    assert longest + servers < settings.drain_seconds
    assert settings.drain.total_seconds() < longest, "the last commits have time, too"
