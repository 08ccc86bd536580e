"""What docker-compose.yml promises, read without Docker."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.settings import Settings

ROOT = Path(__file__).parents[2]
STACK: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
ONE_SHOTS = {"secrets", "migrate"}
APP = {"migrate", "web", "worker", "trainer", "clerk", "sweeper"}

each_service = pytest.mark.parametrize("name", SERVICES)
each_long_runner = pytest.mark.parametrize("name", sorted(SERVICES.keys() - ONE_SHOTS))


def requirements(end: str) -> str:
    """What an image installs whose Dockerfile cuts the requirements at a line beginning with `end`."""
    return re.split(f"^{re.escape(end)}.*$", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE)[0]


def cut(dockerfile: str) -> str:
    """Where that Dockerfile cuts the requirements."""
    found = re.search(r"sed '/\^(.*?)/,\$d' requirements.txt", (ROOT / dockerfile).read_text())
    assert found is not None
    return found[1]


def mounts(name: str) -> dict[str, str]:
    """Volume to mount point, of one service."""
    return {
        entry.split(":")[0]: ":".join(entry.split(":")[1:]) for entry in SERVICES[name].get("volumes", ())
    }


def test_the_stack_has_every_process() -> None:
    assert SERVICES.keys() == APP | {"secrets", "postgres", "redis", "nginx"}


@each_service
def test_no_service_can_gain_privileges_or_change_its_root(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] > 0
    assert service["mem_limit"]
    assert not service.get("privileged")


@each_service
def test_only_the_maker_of_passwords_is_root_and_it_reaches_nobody(name: str) -> None:
    service = SERVICES[name]
    if name == "secrets":
        assert service["network_mode"] == "none"
        assert service["cap_add"] == ["CHOWN"]
    else:
        uid, gid = service["user"].split(":")
        assert int(uid) > 0
        assert int(gid) > 0
        assert "cap_add" not in service


@each_long_runner
def test_what_runs_for_long_is_watched_and_restarted(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", sorted(APP - ONE_SHOTS))
def test_the_application_starts_on_a_migrated_database(name: str) -> None:
    assert SERVICES[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}


def test_servers_start_after_their_passwords_were_made() -> None:
    for name in ("postgres", "redis"):
        assert SERVICES[name]["depends_on"]["secrets"] == {"condition": "service_completed_successfully"}
    assert SERVICES["migrate"]["depends_on"]["postgres"] == {"condition": "service_healthy"}
    assert SERVICES["nginx"]["depends_on"]["web"] == {"condition": "service_healthy"}


def test_only_nginx_is_published_and_only_to_this_machine_unless_asked() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["nginx"]
    assert SERVICES["nginx"]["ports"] == ["${HOST:-127.0.0.1}:${PORT:-8000}:8080"]


def test_only_who_fetches_models_sends_webhooks_or_is_published_has_a_way_out() -> None:
    closed = {name for name, network in STACK["networks"].items() if network and network.get("internal")}
    open_ = {name for name, service in SERVICES.items() if set(service.get("networks", ())) - closed}
    assert open_ == {"nginx", "worker", "trainer", "clerk", "web"}
    assert not set(SERVICES["nginx"]["networks"]) & set(SERVICES["postgres"]["networks"])


@each_service
def test_no_password_stands_in_an_environment(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if re.search("PASSWORD|TOKEN|SECRET|KEY|_URL", variable):
            assert variable.endswith(("_FILE", "_DIR", "_BUDGET")) or value == "file:///artifacts"


@each_service
def test_passwords_reach_only_who_needs_them(name: str) -> None:
    found = {volume: place for volume, place in mounts(name).items() if volume.endswith("-secrets")}
    own = {"postgres": "postgres-secrets", "redis": "redis-secrets"} | dict.fromkeys(APP, "app-secrets")
    if name != "secrets":
        assert found.keys() == ({own[name]} if name in own else set())
        assert all(place.endswith(":ro") for place in found.values())


def test_every_setting_reaches_a_container() -> None:
    given = {variable for service in SERVICES.values() for variable in service.get("environment", {})}
    in_files = {"DATABASE_URL", "REDIS_URL", "HF_TOKEN"}
    the_containers_own = {"WORKER_NAME"}  # its host name, so that workers can be scaled
    assert {name.upper() for name in Settings.model_fields} <= given | in_files | the_containers_own


def test_web_and_nginx_agree_on_limits() -> None:
    asked = set(re.findall(r"\$\{(\w+):-", (ROOT / "ops/nginx/start.sh").read_text()))
    assert asked == SERVICES["nginx"]["environment"].keys()
    assert asked <= SERVICES["web"]["environment"].keys()
    for name in asked:
        assert (
            f"${{{name}:-{Settings.model_fields[name.lower()].default:g}}}"
            in (ROOT / "ops/nginx/start.sh").read_text()
        )


@pytest.mark.parametrize("name", sorted(APP - ONE_SHOTS))
def test_a_drain_fits_into_the_time_docker_gives(name: str) -> None:
    default = Settings.model_fields["drain_seconds"].default
    assert SERVICES[name]["stop_grace_period"] == f"${{DRAIN_SECONDS:-{default:g}}}s10000ms"


def test_metrics_are_for_a_private_network_alone() -> None:
    shown = {name for name, service in SERVICES.items() if "metrics" in service.get("networks", ())}
    assert shown == APP - ONE_SHOTS
    assert STACK["networks"]["metrics"] == {"internal": True}
    for name in shown:
        assert "ports" not in SERVICES[name]
        assert SERVICES[name]["environment"]["METRICS_PORT"] == "${METRICS_PORT:-9400}"


@pytest.mark.parametrize("name", sorted(APP - ONE_SHOTS))
def test_the_servers_stop_after_whoever_needs_them(name: str) -> None:
    """Compose stops in the reverse order of what depends on what."""
    assert {"postgres", "redis"} <= SERVICES[name]["depends_on"].keys()


def test_data_lies_in_named_volumes() -> None:
    assert SERVICES["postgres"]["image"] == "postgres:16"
    assert mounts("postgres")["postgres"] == "/var/lib/postgresql/data"
    assert {volume for name in SERVICES for volume in mounts(name)} == STACK["volumes"].keys()


def test_uploads_models_and_results_lie_in_one_store() -> None:
    assert {mounts(name)["artifacts"] for name in ("web", "clerk", "worker", "trainer")} == {"/artifacts"}


def test_the_web_image_has_no_torch_and_the_worker_image_no_servers() -> None:
    web, worker = requirements(cut("ops/web.Dockerfile")), requirements(cut("ops/worker.Dockerfile"))
    assert "flask==" in web
    assert "torch==" not in web
    assert "torch==" in worker
    assert "supervisor==" not in worker
    for name in ("web", "clerk", "sweeper", "migrate", "secrets"):
        assert SERVICES[name]["build"]["dockerfile"] == "ops/web.Dockerfile"


def test_the_gpu_file_changes_worker_and_trainer_only() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())["services"]
    assert services.keys() == {"worker", "trainer"}
    for service in services.values():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
        assert service["environment"] == {"DEVICE": "cuda"}
        assert "/whl/cu" in service["build"]["args"]["TORCH_INDEX"]


def test_images_get_only_what_is_named() -> None:
    lines = (ROOT / ".dockerignore").read_text().split("\n")
    assert next(line for line in lines if line and not line.startswith("#")) == "*"
    assert not {"!.env", "!var", "!tests"} & set(lines)
