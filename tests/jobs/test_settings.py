"""What the environment may say, and what a person is told who got it wrong."""

from datetime import timedelta
from pathlib import Path

import pytest

from jobs import settings
from jobs.errors import BadSetting
from jobs.settings import ModelSource, Settings


def test_nothing_needs_to_be_set() -> None:
    config = settings.read()
    assert (config.host, config.port, config.var_dir) == ("127.0.0.1", 8000, Path("var").resolve())
    assert config.database.startswith("postgresql+psycopg://")
    assert config.redis.startswith("unix://")


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PORT", "9000")
    monkeypatch.setenv("VAR_DIR", str(tmp_path))
    monkeypatch.setenv("LEASE_SECONDS", "12")
    config = settings.read()
    assert (config.port, config.var_dir, config.lease) == (9000, tmp_path, timedelta(seconds=12))
    assert config.artifacts == f"file://{tmp_path}/artifacts"


def test_a_dotenv_file_decides_where_the_environment_is_silent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("PORT=9000\nSLOTS=4\nSOMEBODY_ELSES=1\n")
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    monkeypatch.setenv("SLOTS", "8")
    config = settings.read()
    assert (config.port, config.slots) == (9000, 8)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_any_usual_spelling_of_a_database_url_will_do(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("DATABASE_URL", f"{scheme}://u:p@db/penstock")
    assert settings.read().database == "postgresql+psycopg://u:p@db/penstock"


def test_a_blank_url_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files pass on what is not set as an empty string."""
    for name in ("DATABASE_URL", "REDIS_URL", "ARTIFACTS_URL"):
        monkeypatch.setenv(name, "")
    assert settings.read() == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "eighty"),
        ("PORT", "70000"),
        ("SLOTS", "0"),
        ("DEVICE", "tpu"),
        ("KERNEL", "cuda"),
        ("MEMORY_GB", "-1"),
        ("MEMORY_GB", "inf"),
        ("LOG_LEVEL", "LOUD"),
        ("LEASE_SECONDS", "nan"),
        ("MODELS", "gpt2"),
        ("MODELS", "a=x,a=y"),
        ("MODELS", ","),
    ],
)
def test_a_bad_setting_is_named_and_its_value_is_not_repeated_at_length(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSetting, match=rf"^{name} in the environment or \.env: .+\.$") as raised:
        settings.read()
    assert "\n" not in str(raised.value)


def test_a_heartbeat_that_comes_too_late_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTBEAT_SECONDS", "20")
    with pytest.raises(BadSetting, match=r"HEARTBEAT_SECONDS .* LEASE_SECONDS"):
        settings.read()


def test_models_are_names_with_sources_and_perhaps_a_quantization(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELS", "starter=models/starter@int8_static, gpt2=openai-community/gpt2,")
    assert settings.read().sources == (
        ModelSource("starter", "models/starter", "int8_static"),
        ModelSource("gpt2", "openai-community/gpt2", None),
    )


def test_a_password_is_not_shown_when_settings_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("DATABASE_URL", "postgres://u:secret@db/penstock")
    monkeypatch.setenv("PORT", "secret")
    with pytest.raises(BadSetting) as raised:
        settings.read()
    assert "secret" not in str(raised.value)
