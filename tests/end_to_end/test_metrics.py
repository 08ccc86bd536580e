"""What each process of a busy stack shows to Prometheus, and what is written about it."""

import json
import re
import urllib.request
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from jobs.prometheus import OFFSETS, Process
from tests.conftest import ROOT
from tests.end_to_end.conftest import RunningStack

_ROW = re.compile(r"^\| `(penstock_\w+)` \| ([\w, ]+) \|", re.MULTILINE)
_NAME = re.compile(r"penstock_\w+")


def documented() -> dict[str, set[str]]:
    """The metrics of docs/metrics.md, each with the processes that have it."""
    rows = _ROW.findall((ROOT / "docs" / "metrics.md").read_text())
    return {name: set(processes.split(", ")) for name, processes in rows}


def scrape(stack: RunningStack, process: Process) -> str:
    port = stack.settings.metrics_port + OFFSETS[process]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        found: str = answer.read().decode()
        return found


def names(text: str) -> set[str]:
    """Our metrics as a query names them: counters with their ending, histograms without."""
    return {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(text)
        if family.name.startswith("penstock_")
    }


def value(text: str, name: str, **labels: str) -> float:
    """The sum of all samples of that name that have these labels."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


@pytest.fixture
def job_id(stack: RunningStack) -> str:
    """A job that has ended."""
    job = stack.submit(max_output_tokens=8)
    assert stack.end(job)["status"] == "incomplete"
    return job


@pytest.mark.parametrize("process", OFFSETS)
def test_each_process_shows_what_is_written_of_it(stack: RunningStack, job_id: str, process: Process) -> None:
    wanted = {name for name, processes in documented().items() if process in processes}
    absent = {"penstock_deadline_slack_seconds"}  # where no job has a deadline
    assert names(scrape(stack, process)) | absent == wanted | absent


def test_a_busy_stack_tells_of_its_work_and_of_nobody(stack: RunningStack, job_id: str) -> None:
    worker = scrape(stack, "worker")
    assert value(worker, "penstock_tokens_total") >= 8
    assert value(worker, "penstock_attempts_total", outcome="succeeded") >= 1
    assert value(worker, "penstock_slots") >= 8
    assert value(worker, "penstock_step_seconds_count") >= 8
    assert value(worker, "penstock_prefill_seconds_count") >= 1
    web = scrape(stack, "web")
    created = {"route": "/v1/responses", "method": "POST", "status": "2xx"}
    assert value(web, "penstock_request_seconds_count", **created) >= 1
    polled = {"route": "/v1/responses/<response_id>", "method": "GET", "status": "2xx"}
    assert value(web, "penstock_request_seconds_count", **polled) >= 1
    everything = "".join(scrape(stack, process) for process in OFFSETS)
    for secret in (job_id, stack.key, stack.key[:24], "resp_", "owner", "sk-penstock"):
        assert secret not in everything, secret


def test_the_public_port_shows_no_metrics(stack: RunningStack) -> None:
    status, _ = stack.call("GET", "/metrics")
    assert status == 404


def test_the_dashboard_and_the_alerts_ask_for_nothing_that_is_not_there() -> None:
    there = set(documented())
    there |= {f"{name}{end}" for name in there for end in ("_bucket", "_sum", "_count")}
    dashboard: dict[str, Any] = json.loads((ROOT / "ops" / "grafana-dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    alerts = yaml.safe_load((ROOT / "ops" / "alerts.yml").read_text())
    asked += [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    assert len(asked) > 20
    for expression in asked:
        found = _NAME.findall(expression) or ["up"] * ("up{" in expression)
        assert found, expression
        assert set(found) <= there | {"up"}, expression
    shown = {name for expression in asked for name in _NAME.findall(expression)}
    missing = {name for name in documented() if not any(each.startswith(name) for each in shown)}
    assert missing == set(), "every metric has a panel"
