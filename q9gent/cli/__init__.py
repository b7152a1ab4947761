"""The command line: ``q9gent`` serves, its commands ask a server, look around, or show."""

from __future__ import annotations

from typing import Any

import click

from q9gent._version import __version__
from q9gent.cli.commands import kill, ps, run, sessions
from q9gent.cli.options import make_settings, settings_options

EPILOG = "Exit status: 0 stopped on request, 1 failure, 2 bad usage, 3 cannot listen."


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EPILOG,
)
@click.version_option(__version__, prog_name="q9gent")
@settings_options
@click.pass_context
def cli(context: click.Context, /, **values: Any) -> None:  # noqa: ANN401 (one type an option)
    """Serve the Claude CLI over HTTP: one process a request, nothing left alive after it."""
    if context.invoked_subcommand is None:
        from q9gent.cli.serve import serve_command  # noqa: PLC0415 (--help needs no server)

        context.exit(serve_command(make_settings(values)))


@cli.command()
@click.pass_context
def demo(context: click.Context) -> None:
    """Show the main job with a simulated agent: no CLI, no account, no network."""
    from q9gent.cli.demo import demo_command  # noqa: PLC0415

    context.exit(demo_command())


@cli.command(epilog="Exit status: 0 nothing stands in the way, 1 something does.")
@click.pass_context
def doctor(context: click.Context) -> None:
    """Check this machine and these settings.

    Tells what works, what does not, and what helps. It checks the settings that stand before it, as in
    `q9gent --port 9000 doctor`.
    """
    from q9gent.cli.doctor import doctor_command  # noqa: PLC0415

    context.exit(doctor_command(make_settings(context.find_root().params)))


for _command in (run, ps, kill, sessions):
    cli.add_command(_command)


def main() -> None:
    """Run the command line."""
    cli(prog_name="q9gent")
