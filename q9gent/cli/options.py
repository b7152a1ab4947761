"""Command-line options and environment variables, made from the settings table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin

import click
import msgspec

from q9gent.settings import ENVIRONMENT_PREFIX, Settings, parse_log_level

if TYPE_CHECKING:
    from collections.abc import Callable

_CommandT = TypeVar("_CommandT", bound="Callable[..., Any]")


def settings_options(command: _CommandT) -> _CommandT:
    """Give a click command an option for each setting."""
    hints = Settings.__annotations__
    for field in reversed(msgspec.structs.fields(Settings)):
        assert field.name in hints
        command = _option(field)(command)
    return command


def _option(field: msgspec.structs.FieldInfo) -> Callable[[_CommandT], _CommandT]:
    kind, description = _unwrap(field.type)
    name = "--" + field.name.replace("_", "-")
    variable = ENVIRONMENT_PREFIX + field.name.upper()
    options: dict[str, Any] = {"help": description, "envvar": variable, "show_envvar": True}
    if kind is bool:
        return click.option(name, is_flag=True, default=field.default, **options)
    if get_origin(kind) is Literal:
        options["type"] = click.Choice(get_args(kind))
    elif get_origin(kind) is tuple:
        options |= {"multiple": True, "type": str}
    else:
        options["type"] = kind
    shown = field.default not in (None, ())
    return click.option(name, default=field.default, show_default=shown, **options)


def _unwrap(hint: Any) -> tuple[Any, str]:  # noqa: ANN401 (a type)
    """Return a field's plain type and its description, from ``Annotated[X | None, Meta(...)]``."""
    description = ""
    while True:
        if get_origin(hint) is Annotated:
            hint, *metas = get_args(hint)
            description = next((meta.description for meta in metas if meta.description), description)
        elif type(None) in get_args(hint):
            hint = next(part for part in get_args(hint) if part is not type(None))
        else:
            return hint, description


def make_settings(values: dict[str, Any]) -> Settings:
    """Return checked settings.

    Raises:
        click.UsageError: A value is out of its bounds; the text names the option.
    """
    try:
        settings = msgspec.convert(values, Settings)
        parse_log_level(settings.log)
    except msgspec.ValidationError as error:
        text, _, path = str(error).rpartition(" - at `$.")
        option = "--" + path.rstrip("`").partition("[")[0].replace("_", "-")
        raise click.UsageError(f"Invalid value for {option!r}: {text}") from error
    except ValueError as error:
        raise click.UsageError(f"Invalid value for '--log': {error}") from error
    return settings


def settings_from_environment() -> Settings:
    """Return the settings of the environment variables alone.

    Raises:
        click.UsageError: One is not what it must be.
    """

    @click.command()
    @settings_options
    def command(**values: Any) -> Settings:  # noqa: ANN401 (one type an option)
        return make_settings(values)

    settings = command.main([], standalone_mode=False)
    assert isinstance(settings, Settings)
    return settings
