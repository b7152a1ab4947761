"""One table of settings; flags and variables are made of it."""

from __future__ import annotations

import msgspec
import pytest
from click.testing import CliRunner

from q9gent.cli import cli
from q9gent.cli.options import _unwrap, make_settings, settings_from_environment
from q9gent.settings import Settings, parse_log_level

FIELDS = msgspec.structs.fields(Settings)
DEFAULTS = msgspec.structs.asdict(Settings())


def test_the_defaults_are_valid() -> None:
    """And are what an empty environment gives."""
    assert make_settings(DEFAULTS) == Settings() == settings_from_environment()


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_setting_has_a_flag_a_variable_and_a_description(field: msgspec.structs.FieldInfo) -> None:
    """In the help of the command line."""
    shown = " ".join(CliRunner().invoke(cli, ["--help"]).output.replace("-\n", "-").split())
    _kind, description = _unwrap(field.type)
    assert description
    assert description.endswith(".")
    assert f"--{field.name.replace('_', '-')} " in shown
    assert f"Q9GENT_{field.name.upper()}" in shown.replace(" ", "")


def test_the_environment_sets_what_no_flag_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers, switches, lists."""
    monkeypatch.setenv("Q9GENT_PORT", "9")
    monkeypatch.setenv("Q9GENT_SIMULATE", "1")
    monkeypatch.setenv("Q9GENT_ALLOWED_HOST", "a b")
    settings = settings_from_environment()
    assert (settings.port, settings.simulate, settings.allowed_host) == (9, True, ("a", "b"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--port", "70000"], "--port"),
        (["--port", "x"], "--port"),
        (["--max-runs", "0"], "--max-runs"),
        (["--grace-seconds", "-1"], "--grace-seconds"),
        (["--max-run-seconds", "0"], "--max-run-seconds"),
        (["--containment", "magic"], "--containment"),
        (["--log", "loud"], "--log"),
        (["--host", ""], "--host"),
        (["--no-such-flag"], "--no-such-flag"),
        (["no-such-command"], "no-such-command"),
    ],
)
def test_bad_usage_is_named_and_exits_2(arguments: list[str], named: str) -> None:
    """Before anything is started."""
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert named in result.output


def test_help_and_version_exit_0() -> None:
    """With the exit statuses told."""
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    assert "Exit status: 0" in result.output
    assert CliRunner().invoke(cli, ["--version"]).exit_code == 0


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("info", "info"),
        ("q9gent=info", "info"),
        ("DEBUG", "debug"),
        ("warn", "warning"),
        ("q9gent=trace", "debug"),
    ],
)
def test_log_levels_are_read_as_the_original_did(text: str, level: str) -> None:
    """`Q9GENT_LOG=q9gent=info` plays the part of `RUST_LOG`."""
    assert parse_log_level(text) == level
