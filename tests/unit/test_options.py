"""Flags and environment variables: one of each for every setting, with its bounds."""

from __future__ import annotations

import math
import os
from typing import Annotated, Any, Literal, get_args, get_origin

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from q9gent.cli.options import make_settings, settings_from_environment, settings_options
from q9gent.settings import Settings

FIELDS = msgspec.structs.fields(Settings)


def plain(field: msgspec.structs.FieldInfo) -> tuple[Any, dict[str, float]]:
    """Return a field's type without annotations, and the bounds that these set."""
    hint, bounds = field.type, {}
    while get_origin(hint) is Annotated or type(None) in get_args(hint):
        if get_origin(hint) is Annotated:
            hint, *metas = get_args(hint)
            for meta in metas:
                for name in ("ge", "gt", "le", "lt", "min_length"):
                    if getattr(meta, name) is not None:
                        bounds[name] = getattr(meta, name)
        else:
            (hint,) = [part for part in get_args(hint) if part is not type(None)]
    return hint, bounds


def flag(field: msgspec.structs.FieldInfo) -> str:
    return "--" + field.name.replace("_", "-")


def variable(field: msgspec.structs.FieldInfo) -> str:
    return "Q9GENT_" + field.name.upper()


def samples(field: msgspec.structs.FieldInfo) -> list[tuple[str, object]]:
    """Return values as written, and what they become: none is the default, the bounds are among them."""
    kind, bounds = plain(field)
    if field.name == "log":
        return [("debug", "debug"), ("q9gent=warn", "q9gent=warn")]
    if kind is str:
        return [("x y", "x y"), ("-x", "-x")]
    if get_origin(kind) is Literal:
        return [(word, word) for word in get_args(kind)]
    if kind is int:
        edges = {int(bounds[name]) for name in ("ge", "le") if name in bounds}
        return [(str(number), number) for number in sorted(edges | {123_456 if bounds["ge"] > 999 else 99})]
    assert kind is float
    edges = {float(bounds[name]) for name in ("ge", "le") if name in bounds}
    return [(str(number), number) for number in sorted(edges | {0.25})]


def outside(field: msgspec.structs.FieldInfo) -> list[str]:
    """Return values that are just out of a field's bounds, or of another type."""
    kind, bounds = plain(field)
    if field.name == "log":
        return ["loud", "", "q9gent="]
    if kind is str:
        return [""] if bounds.get("min_length") else []
    if get_origin(kind) is Literal:
        return ["magic"]
    if kind in (bool, tuple) or get_origin(kind) is tuple:
        return []
    step = 1 if kind is int else 1e-6
    found = ["x", ""]
    found += [str(kind(bounds["ge"]) - step)] if "ge" in bounds else []
    found += [str(kind(bounds["le"]) + step)] if "le" in bounds else []
    found += [str(bounds["gt"])] if "gt" in bounds else []
    return [*found, "1.5"] if kind is int else [*found, "nan"]


def id_of(value: object) -> str:
    return value.name if isinstance(value, msgspec.structs.FieldInfo) else repr(value)


SWITCHES = [field for field in FIELDS if plain(field)[0] is bool]
LISTS = [field for field in FIELDS if get_origin(plain(field)[0]) is tuple]
ORDINARY = [field for field in FIELDS if field not in SWITCHES + LISTS]
SAMPLES = [(field, text, value) for field in ORDINARY for text, value in samples(field)]
OUTSIDE = [(field, text) for field in FIELDS for text in outside(field)]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("Q9GENT_")]:
        monkeypatch.delenv(name)


def given(*arguments: str, environment: dict[str, str] | None = None) -> tuple[Settings | None, Result]:
    """Return the settings of a command line, or what it was refused with."""
    made: list[Settings] = []

    @click.command()
    @settings_options
    def command(**values: Any) -> None:
        made.append(make_settings(values))

    result = CliRunner().invoke(command, list(arguments), env=environment)
    assert result.exit_code in {0, 2}, result.output
    assert bool(made) == (result.exit_code == 0)
    return (made[0] if made else None), result


def changed(settings: Settings | None) -> dict[str, object]:
    """Return what is not as the defaults are."""
    assert settings is not None
    defaults = Settings()
    return {
        name: value
        for name, value in msgspec.structs.asdict(settings).items()
        if value != getattr(defaults, name)
    }


def expected(field: msgspec.structs.FieldInfo, value: object) -> dict[str, object]:
    return {} if value == field.default else {field.name: value}


@pytest.mark.parametrize(("field", "text", "value"), SAMPLES, ids=id_of)
def test_a_flag_sets_its_setting_and_no_other(
    field: msgspec.structs.FieldInfo, text: str, value: object
) -> None:
    """At its bounds too."""
    settings, result = given(f"{flag(field)}={text}")
    assert changed(settings) == expected(field, value), result.output


@pytest.mark.parametrize(("field", "text", "value"), SAMPLES, ids=id_of)
def test_a_variable_sets_its_setting_and_no_other(
    field: msgspec.structs.FieldInfo, text: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the command line, and for other servers' applications."""
    settings, result = given(environment={variable(field): text})
    assert changed(settings) == expected(field, value), result.output
    monkeypatch.setenv(variable(field), text)
    assert settings_from_environment() == settings


@pytest.mark.parametrize(("field", "text"), OUTSIDE, ids=id_of)
def test_a_bad_flag_exits_2_and_is_named(field: msgspec.structs.FieldInfo, text: str) -> None:
    """Just out of bounds, empty, of another type, not a number."""
    settings, result = given(f"{flag(field)}={text}")
    assert settings is None
    assert result.exit_code == 2
    assert f"{flag(field)}'" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(("field", "text"), [(field, text) for field, text in OUTSIDE if text], ids=id_of)
def test_a_bad_variable_exits_2_and_is_named(field: msgspec.structs.FieldInfo, text: str) -> None:
    """An empty variable is none at all."""
    settings, result = given(environment={variable(field): text})
    assert settings is None
    assert result.exit_code == 2
    assert flag(field) in result.output


def test_every_bounded_setting_is_tried_out_of_its_bounds() -> None:
    """The tables above are made from the settings: this says that they are not empty."""
    assert {field.name for field, *_rest in SAMPLES} == {field.name for field in ORDINARY}
    tried = {field.name for field, text in OUTSIDE if text not in {"x", "1.5", "nan"}}
    assert {field.name for field in FIELDS if plain(field)[1]} <= tried


@pytest.mark.parametrize("field", ORDINARY, ids=id_of)
def test_an_empty_variable_is_none_at_all(field: msgspec.structs.FieldInfo) -> None:
    """Compose files and unit files set such."""
    settings, _result = given(environment={variable(field): ""})
    assert changed(settings) == {}


@pytest.mark.parametrize("field", SWITCHES, ids=id_of)
@pytest.mark.parametrize(("text", "value"), [("1", True), ("true", True), ("0", False), ("false", False)])
def test_a_switch_is_a_flag_without_a_value(field: msgspec.structs.FieldInfo, text: str, value: bool) -> None:
    """And a variable with one."""
    assert changed(given(flag(field))[0]) == {field.name: True}
    assert changed(given(environment={variable(field): text})[0]) == expected(field, value)
    assert given(environment={variable(field): "perhaps"})[1].exit_code == 2


@pytest.mark.parametrize("field", LISTS, ids=id_of)
def test_a_list_is_a_repeated_flag(field: msgspec.structs.FieldInfo) -> None:
    """And a variable with blanks between."""
    settings, _result = given(flag(field), "a:1", flag(field), "*")
    assert changed(settings) == {field.name: ("a:1", "*")}
    assert changed(given(environment={variable(field): "a:1 *"})[0]) == {field.name: ("a:1", "*")}


def test_a_flag_outweighs_its_variable() -> None:
    """What was typed last is meant."""
    settings, _result = given("--port", "7", environment={"Q9GENT_PORT": "8", "Q9GENT_HOST": "::1"})
    assert changed(settings) == {"port": 7, "host": "::1"}


def test_only_variables_of_our_own_prefix_count() -> None:
    """`PORT` and `LOG` mean something to others."""
    other = {"PORT": "1", "LOG": "debug", "HOST": "x", "Q9GENTPORT": "1", "q9gent_portx": "1"}
    assert changed(given(environment=other)[0]) == {}


@pytest.mark.parametrize("field", FIELDS, ids=id_of)
def test_no_flag_may_be_shortened_or_doubled(field: msgspec.structs.FieldInfo) -> None:
    """A script that relied on it would break with the next setting."""
    assert given(flag(field)[:-1])[1].exit_code == 2


def test_no_time_is_infinite_where_an_end_is_promised() -> None:
    """The grace between asking and killing is bounded, so that an end is."""
    assert given("--grace-seconds", "inf")[0] is None
    settings, _result = given("--max-run-seconds", "inf")
    assert settings is not None
    assert settings.max_run_seconds == math.inf
