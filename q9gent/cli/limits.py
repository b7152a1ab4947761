"""Whether the system's limits leave room for as many runs as are allowed."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import psutil

from q9gent.cli.finding import Finding
from q9gent.settings import MIB

if TYPE_CHECKING:
    from q9gent.settings import Settings

RUN_BYTES = 314 * 10**6
"""What the CLI takes in memory (measured)."""

RUN_DESCRIPTORS = 4
"""What a run takes in the server: standard output, standard error, supervisor, client."""

RUN_PROCESSES = 2
"""The least that a run is: the CLI and its supervisor."""


def descriptors(settings: Settings) -> Finding:
    """Compare the limit of descriptors with what as many runs as allowed take."""
    most = _limits("RLIMIT_NOFILE")[1]  # the server raises its own to the hard one
    wanted = RUN_DESCRIPTORS * settings.max_runs
    if most is None:
        return Finding("ok", "descriptors", "no limit")
    if most >= wanted:
        return Finding("ok", "descriptors", f"up to {most}, {wanted} are for --max-runs {settings.max_runs}")
    return Finding(
        "warn",
        "descriptors",
        f"at most {most}, and {settings.max_runs} runs take {wanted}",
        f"raise it (ulimit -Hn {wanted}, LimitNOFILE={wanted}), or --max-runs {most // RUN_DESCRIPTORS}",
    )


def processes(settings: Settings) -> Finding:
    """Compare the limits of processes with the least that as many runs as allowed take."""
    limits = {"the control group's pids.max": _cgroup_limit()}
    if getattr(os, "geteuid", lambda: 1)() != 0:  # it does not hold for root
        limits["ulimit -u"] = _limits("RLIMIT_NPROC")[0]
    known = [(limit, name) for name, limit in limits.items() if limit is not None]
    if not known:
        return Finding("ok", "processes", "no limit")
    limit, name = min(known)
    wanted = RUN_PROCESSES * settings.max_runs
    if limit >= wanted:
        return Finding("ok", "processes", f"up to {limit} by {name}")
    return Finding(
        "warn",
        "processes",
        f"at most {limit} by {name}, and {settings.max_runs} runs take {wanted} at least",
        f"raise it, or --max-runs {max(1, limit // RUN_PROCESSES)}",
    )


def _limits(name: str) -> tuple[int | None, int | None]:
    """Return a soft and a hard limit of the system; ``None`` where there is none."""
    found: tuple[int | None, int | None] = (None, None)
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 (not on Windows)

        soft, hard = resource.getrlimit(getattr(resource, name))
        unlimited = {resource.RLIM_INFINITY, -1}
        found = (None if soft in unlimited else soft, None if hard in unlimited else hard)
    return found


def _cgroup_limit() -> int | None:
    """Return what the control groups (version 2) of this process allow, if they limit it."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            path = next((line.strip()[3:] for line in file if line.startswith("0::")), "/")
    except OSError:
        return None
    found = []
    while True:
        try:
            with open(f"/sys/fs/cgroup{path.rstrip('/')}/pids.max", encoding="utf-8") as file:
                text = file.read().strip()
            found += [int(text)] if text.isdecimal() else []
        except OSError:
            pass
        if path in {"", "/"}:
            return min(found, default=None)
        path = os.path.dirname(path)


def memory(settings: Settings) -> Finding:
    """Tell how many runs there is memory for."""
    free = psutil.virtual_memory().available
    runs = free // RUN_BYTES
    text = f"{free // MIB} MiB free: about {runs} runs at 314 MB each, --max-runs is {settings.max_runs}"
    if runs >= settings.max_runs:
        return Finding("ok", "memory", text)
    return Finding("ok" if runs else "warn", "memory", text, f"--max-runs {max(1, runs)} keeps within it")
