"""The options of the commands that ask a server. What they do is imported when they are called."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from q9gent.cli.arguments import split_tools, unicode_text

if TYPE_CHECKING:
    from collections.abc import Callable

MISSING_EXTRA = "q9gent: this command needs httpx: pip install 'q9gent[cli]'"

STATUSES = (
    "Exit status: 0 done, 1 {failure}, 2 bad usage, 3 the server cannot be reached, 130 interrupted by ^C."
)
RUN_STATUSES = (
    "Exit status: 0 the run completed, 1 it failed, or the server refused it, 2 bad usage, 3 the server"
    " cannot be reached, or was lost, 130 interrupted by ^C."
)


def url_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option ``--url``."""
    return click.option(
        "--url",
        metavar="URL",
        envvar="Q9GENT_URL",
        show_envvar=True,
        help="Where the server is; default: http:// with --host and --port.",
    )(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


@click.command(epilog=RUN_STATUSES)
@click.argument("prompt", required=False, callback=unicode_text)
@click.option(
    "--tools",
    multiple=True,
    callback=unicode_text,
    metavar="A,B",
    help="Tools approved beforehand; no fence.",
)
@click.option(
    "--session", callback=unicode_text, metavar="ID", help="Continue this session; its beginning will do."
)
@click.option("--new-session", is_flag=True, help="Keep the conversation; with --session, branch off.")
@click.option("--system", callback=unicode_text, metavar="TEXT", help="Appended to the system prompt.")
@click.option(
    "--flag", "flags", multiple=True, callback=unicode_text, help="A raw argument for the CLI (repeatable)."
)
@click.option(
    "--agent-type", default="q9gent-run", show_default=True, callback=unicode_text, help="A label for lists."
)
@click.option("--json", "as_json", is_flag=True, help="Print the server's events, one JSON object a line.")
@click.option("-q", "--quiet", is_flag=True, help="Print the agent's answer, and errors, alone.")
@url_option
@click.pass_context
def run(context: click.Context, /, **values: Any) -> None:  # noqa: ANN401 (one type an option)
    """Do a turn on a server, and show it.

    PROMPT is read from standard input if it is - or missing. What the agent says goes to standard output as
    it comes, all else to standard error. ^C ends the run, and tells what was killed; a second ^C does not
    wait for that.
    """
    url = _url(context, values["url"])
    command = _module(context, "run")
    prompt = values["prompt"]
    if prompt is None or prompt == "-":
        try:
            prompt = command.read_prompt()
        except ValueError as error:
            raise click.UsageError(f"The prompt on standard input is not UTF-8: {error}") from error
        except KeyboardInterrupt:
            context.exit(130)
    if not prompt.strip():
        raise click.UsageError("The prompt is empty.")
    options = {
        "tools_allowed": split_tools(values["tools"]),
        "flags": values["flags"],
        "system_append": values["system"],
    }
    order = command.Order(prompt, values["session"], values["new_session"], values["agent_type"], options)
    context.exit(command.run_command(url, order, as_json=values["as_json"], quiet=values["quiet"]))


@click.command(epilog=STATUSES.format(failure="the server refused"))
@click.option("--watch", is_flag=True, help="Show them until ^C, and refresh each second.")
@click.option("--no-trunc", is_flag=True, help="Show ids in full.")
@click.option("-q", "--quiet", is_flag=True, help="Print run ids alone, in full.")
@json_option
@url_option
@click.pass_context
def ps(context: click.Context, /, **values: Any) -> None:  # noqa: ANN401 (one type an option)
    """List the live runs."""
    watch, as_json, quiet = values["watch"], values["as_json"], values["quiet"]
    if watch and (as_json or quiet or not sys.stdout.isatty()):
        raise click.UsageError("--watch needs a terminal, and neither --json nor --quiet.")
    url, whole_ids = _url(context, values["url"]), values["no_trunc"]
    manage = _module(context, "manage")
    if watch:
        _exit(context, lambda: manage.watch_command(url, whole_ids=whole_ids))
    _exit(context, lambda: manage.ps_command(url, as_json=as_json, quiet=quiet, whole_ids=whole_ids))


@click.command(epilog=STATUSES.format(failure="one was not ended"))
@click.argument("ids", nargs=-1, metavar="ID...", callback=unicode_text)
@click.option("--all", "everything", is_flag=True, help="End all live runs.")
@url_option
@click.pass_context
def kill(context: click.Context, ids: tuple[str, ...], everything: bool, url: str | None) -> None:  # noqa: FBT001
    """End runs.

    Prints each id once every process of the run is dead. An ID is a run's or a session's, or the beginning
    of one that no other begins with.
    """
    if bool(ids) == everything:
        raise click.UsageError("Name the runs to end, or all of them with --all.")
    url = _url(context, url)
    manage = _module(context, "manage")
    _exit(context, lambda: manage.kill_command(url, ids, everything=everything))


@click.group(invoke_without_command=True, epilog=STATUSES.format(failure="the server refused"))
@click.option("-q", "--quiet", is_flag=True, help="Print ids alone.")
@json_option
@url_option
@click.pass_context
def sessions(context: click.Context, url: str | None, quiet: bool, as_json: bool) -> None:  # noqa: FBT001
    """List the stored sessions."""
    context.obj = url
    if context.invoked_subcommand is None:
        url = _url(context, url)
        manage = _module(context, "manage")
        _exit(context, lambda: manage.sessions_command(url, as_json=as_json, quiet=quiet))


@sessions.command("rm", epilog=STATUSES.format(failure="one was not forgotten"))
@click.argument("ids", nargs=-1, required=True, metavar="ID...", callback=unicode_text)
@url_option
@click.pass_context
def remove(context: click.Context, ids: tuple[str, ...], url: str | None) -> None:
    """Forget sessions.

    Prints each id once it is gone. The CLI's own transcripts stay.
    """
    url = _url(context, url or context.obj)
    manage = _module(context, "manage")
    _exit(context, lambda: manage.remove_command(url, ids))


def _url(context: click.Context, given: str | None) -> str:
    """Return where the server is: as told, or where one with these settings would be."""
    if given is None:
        settings = context.find_root().params
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings["host"], settings["host"])  # noqa: S104
        given = f"http://{f'[{host}]' if ':' in host else host}:{settings['port'] or 8080}"
    server_url = _module(context, "outcome").server_url
    try:
        return str(server_url(given))
    except ValueError as error:
        raise click.UsageError(f"Invalid value for '--url': {error}") from error


def _module(context: click.Context, name: str) -> Any:  # noqa: ANN401 (a module)
    """Return a module that needs the client, or say which extra is missing."""
    try:
        importlib.import_module("httpx")
    except ImportError:
        click.echo(MISSING_EXTRA, err=True)
        context.exit(2)
    return importlib.import_module(f"q9gent.cli.{name}")


def _exit(context: click.Context, work: Callable[[], int]) -> NoReturn:
    context.exit(_module(context, "outcome").finish(work))
