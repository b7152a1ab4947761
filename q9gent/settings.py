"""Every setting, in one table: its name with the unit in it, its default, its bounds, its reason.

``Settings`` is the table. The command line (``q9gent.cli``) makes a flag and an environment variable
of each field (``spool_bytes``: ``--spool-bytes``, ``Q9GENT_SPOOL_BYTES``), the docs a row, and a test
compares the three.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

ENVIRONMENT_PREFIX = "Q9GENT_"
"""Variables of this prefix are the server's own and are not handed on to the CLI."""

PositiveSeconds = Annotated[float, Meta(gt=0)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set, checked when decoded (``msgspec.convert``)."""

    host: Annotated[
        str,
        Meta(min_length=1, description="Address to listen on; `127.0.0.1` is this machine only."),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Meta(ge=0, le=65535, description="TCP port to listen on; 0 picks a free one and prints it."),
    ] = 8080
    session_dir: Annotated[str, Meta(min_length=1, description="Folder of the session files.")] = "./sessions"
    claude_path: Annotated[
        str,
        Meta(
            min_length=1,
            description="The Claude CLI: a path, or a name looked for on PATH and then bundled with"
            " claude-agent-sdk.",
        ),
    ] = "claude"
    simulate: Annotated[
        bool, Meta(description="Run the built-in simulated agent in place of the Claude CLI.")
    ] = False
    containment: Annotated[
        Literal["auto", "linux", "posix", "windows"],
        Meta(description="How process trees are held: the strongest way of this system, or a named one."),
    ] = "auto"
    hypercorn_config: Annotated[
        str | None,
        Meta(
            description="A Hypercorn TOML file: TLS, Unix sockets, several binds, access log. Its `bind`"
            " replaces --host and --port."
        ),
    ] = None
    allowed_host: Annotated[
        tuple[str, ...],
        Meta(
            description="A further Host header to answer when bound to a loopback address (repeatable;"
            " `*` for any): the name that a reverse proxy passes on."
        ),
    ] = ()
    cors_origin: Annotated[
        tuple[str, ...],
        Meta(description="An origin whose web pages may call this server (repeatable; default: none)."),
    ] = ()
    console: Annotated[
        bool,
        Meta(description="Serve a console for people at `/console`: live runs, sessions, a run's output."),
    ] = False
    max_runs: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Live runs at once. A sanity bound: size it by memory, the CLI takes about 314 MB.",
        ),
    ] = 1024
    queue_seconds: Annotated[
        float,
        Meta(ge=0, description="How long a request waits, first come first served, for a free run."),
    ] = 10.0
    max_run_seconds: Annotated[
        PositiveSeconds | None,
        Meta(description="End a run after this time with `code: timeout`; default: never."),
    ] = None
    grace_seconds: Annotated[
        float,
        Meta(ge=0, le=3600, description="Time between asking a run to end (SIGTERM) and killing it."),
    ] = 2.0
    shutdown_seconds: Annotated[
        PositiveSeconds,
        Meta(description="Time in which a stopping server ends every run and every stream."),
    ] = 10.0
    client_stall_seconds: Annotated[
        PositiveSeconds,
        Meta(description="A client that takes no byte for this long while some wait ends its run."),
    ] = 300.0
    heartbeat_seconds: Annotated[
        PositiveSeconds,
        Meta(description="After this much silence a comment line tells client and proxies we live."),
    ] = 15.0
    header_seconds: Annotated[
        PositiveSeconds,
        Meta(description="Time for a request's headers to arrive, and for an idle connection to stay."),
    ] = 30.0
    body_seconds: Annotated[PositiveSeconds, Meta(description="Time for a request's body to arrive.")] = 60.0
    body_bytes: Annotated[int, Meta(ge=1, le=GIB, description="Largest request body.")] = 4 * MIB
    max_connections: Annotated[
        int,
        Meta(ge=1, le=1_000_000, description="Open connections; more wait in the system's backlog."),
    ] = 2048
    memory_bytes: Annotated[
        int,
        Meta(
            ge=64 * KIB,
            le=GIB,
            description="Output a run holds in memory for a slow client, before the spool file.",
        ),
    ] = MIB
    spool_bytes: Annotated[
        int,
        Meta(
            ge=0,
            description="Output a run holds in a temporary file for a slow client; past that it ends"
            " with `code: overflow`.",
        ),
    ] = GIB
    spool_dir: Annotated[
        str | None,
        Meta(description="Folder of the spool files; default: the system's. A tmpfs is memory."),
    ] = None
    line_bytes: Annotated[
        int,
        Meta(
            ge=64 * KIB,
            le=GIB,
            description="Longest line of output; past that the run ends with `code: overflow`.",
        ),
    ] = 64 * MIB
    log: Annotated[
        str,
        Meta(description="Log level: debug, info, warning or error; also written `q9gent=info`."),
    ] = "info"
    log_format: Annotated[
        Literal["auto", "console", "json"],
        Meta(description="Log lines for people, for machines, or chosen by whether stderr is a terminal."),
    ] = "auto"
    log_prompts: Annotated[
        bool, Meta(description="Log each run's prompt when the run starts; it may hold secrets.")
    ] = False
    metrics: Annotated[
        bool, Meta(description="Serve Prometheus metrics at `/metrics`; needs the extra `q9gent[metrics]`.")
    ] = False


LOG_LEVELS = ("debug", "info", "warning", "error")


def parse_log_level(text: str) -> str:
    """Return the level named by ``info`` or, as the Rust original took it, ``q9gent=info``.

    Raises:
        ValueError: No such level.
    """
    level = text.rpartition("=")[2].strip().lower()
    level = {"warn": "warning", "trace": "debug"}.get(level, level)
    if level not in LOG_LEVELS:
        raise ValueError(f"unknown log level {text!r}: use one of {', '.join(LOG_LEVELS)}")
    return level
