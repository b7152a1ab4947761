"""``q9gent doctor``: what works on this machine with these settings, and what helps where it does not."""

from __future__ import annotations

import http.client
import importlib.metadata
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import psutil
import trio

from q9gent._version import __version__
from q9gent.agent import PROBE_SECONDS, AgentProgram
from q9gent.cli.finding import Finding, show
from q9gent.cli.limits import descriptors, memory, processes
from q9gent.containment import ContainmentUnavailable, open_containment
from q9gent.containment.environment import agent_environment
from q9gent.errors import ProcessSpawnFailed, SessionStoreFailed
from q9gent.http.serve import make_config
from q9gent.log import configure_logging
from q9gent.sessions.files import FileSessionStore
from q9gent.settings import MIB

if TYPE_CHECKING:
    from q9gent.settings import Settings

ASK_SECONDS = 2.0


def doctor_command(settings: Settings) -> int:
    """Check everything, show it, and return the exit status: 1 if something stands in the way."""
    configure_logging("error", "console")
    findings = [
        Finding("ok", "q9gent", f"{__version__} on Python {platform.python_version()}, {sys.platform}")
    ]
    show(findings[0])
    for check in (agent, containment, descriptors, processes, memory, session_folder, address, spool, extras):
        finding = check(settings)
        if finding is not None:
            findings.append(finding)
            show(finding)
    return 1 if any(finding.state == "fail" for finding in findings) else 0


def agent(settings: Settings) -> Finding:
    """Look for the CLI, and ask for its version."""
    subject = "Claude CLI"
    try:
        argv = AgentProgram(settings).find()
    except ProcessSpawnFailed as error:
        return Finding(
            "fail",
            subject,
            f"{settings.claude_path}: {str(error).removeprefix('Process spawn failed: ')}",
            "npm install -g @anthropic-ai/claude-code, or pip install 'q9gent[claude]', or name it with"
            " --claude-path",
        )
    try:
        told = subprocess.run(
            [*argv, "--version"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=agent_environment(),
            timeout=PROBE_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("fail", subject, f"{argv[0]}: {error}", "run it by hand, and mend what it says")
    name = "simulated agent" if settings.simulate else argv[-1]
    return Finding("ok", subject, f"{name}: {told.stdout.decode(errors='replace').strip()}")


def containment(settings: Settings) -> Finding:
    """Open the containment that a server would."""
    subject = "containment"

    async def opened(strategy: str) -> tuple[str, str]:
        async with open_containment(strategy) as found:
            return found.name, found.guarantee

    try:
        name, guarantee = trio.run(opened, settings.containment)
    except ContainmentUnavailable as error:
        return Finding("fail", subject, str(error), "leave --containment at auto")
    if settings.containment == "auto" and name == "posix" and sys.platform == "linux":
        try:
            trio.run(opened, "linux")
        except ContainmentUnavailable as error:
            return Finding(
                "warn",
                subject,
                f"posix, {guarantee}; the strategy for Linux does not work here: {error}",
                "what a run starts may escape: put the server into a container",
            )
    return Finding("ok", subject, f"{name}: {guarantee}")


def session_folder(settings: Settings) -> Finding:
    """See whether sessions can be stored; a folder that is not there is not made."""
    folder = os.path.abspath(settings.session_dir)
    remedy = "name another with --session-dir; runs without a session work all the same"
    if os.path.lexists(folder):
        try:
            trio.run(FileSessionStore(folder).check)
        except SessionStoreFailed as error:
            return Finding("fail", "sessions", str(error), remedy)
        return Finding("ok", "sessions", f"{folder} can be written")
    above = os.path.dirname(folder)
    while not os.path.lexists(above) and os.path.dirname(above) != above:
        above = os.path.dirname(above)
    if os.path.isdir(above) and os.access(above, os.W_OK | os.X_OK):
        return Finding("ok", "sessions", f"{folder} will be made when first needed")
    return Finding("fail", "sessions", f"{folder} cannot be made: {above} cannot be written", remedy)


def address(settings: Settings) -> Finding:
    """See whether the address is free; of a Hypercorn file, whether it can be read."""
    try:
        config = make_config(settings)
    except (OSError, ValueError) as error:
        return Finding(
            "fail", "address", f"cannot read {settings.hypercorn_config}: {error}", "mend the file"
        )
    where = ", ".join(config.bind)
    if settings.hypercorn_config is not None:  # binding could take a Unix socket away from a server
        return Finding("ok", "address", f"{where}, by {settings.hypercorn_config}; not tried")
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        socket.create_server((settings.host, settings.port), family=family).close()
    except OSError as error:
        if version := _running_version(settings):
            return Finding(
                "warn",
                "address",
                f"q9gent {version} listens on {where} already",
                "use that one, or --port 0 for a free one",
            )
        remedy = "choose another with --host and --port; port 0 picks a free one"
        return Finding("fail", "address", f"cannot listen on {where}: {error.strerror or error}", remedy)
    return Finding("ok", "address", f"{where} is free" if settings.port else "a free port will be picked")


def _running_version(settings: Settings) -> str:
    """Return the version of the server that listens there already, if it is q9gent."""
    connection = http.client.HTTPConnection(settings.host, settings.port, timeout=ASK_SECONDS)
    try:
        connection.request("GET", "/health")
        found = re.search(rb'"status":"ok","version":"([^"]{1,40})"', connection.getresponse().read(1024))
    except (OSError, http.client.HTTPException):
        found = None
    finally:
        connection.close()
    return found[1].decode(errors="replace") if found else ""


def spool(settings: Settings) -> Finding:
    """Look at the folder for the output that slow clients have not taken yet."""
    folder = settings.spool_dir or tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("fail", "spool", f"{folder}: {error.strerror}", "name another folder with --spool-dir")
    text = f"{folder}: {free // MIB} MiB free, a run may take {settings.spool_bytes // MIB} MiB"
    if _file_system(folder) in {"tmpfs", "ramfs"}:
        remedy = "name a folder on a disk with --spool-dir, or lower --spool-bytes"
        return Finding("warn", "spool", f"{text}; it is a tmpfs, which is memory", remedy)
    if free < settings.spool_bytes:
        return Finding("warn", "spool", text, "lower --spool-bytes, or name another with --spool-dir")
    return Finding("ok", "spool", text)


def _file_system(folder: str) -> str:
    path = os.path.realpath(folder)
    mounts = [
        (len(mount.mountpoint), mount.fstype)
        for mount in psutil.disk_partitions(all=True)
        if path == mount.mountpoint or path.startswith(mount.mountpoint.rstrip(os.sep) + os.sep)
    ]
    return max(mounts, default=(0, ""))[1]


def extras(_settings: Settings) -> Finding | None:
    """Tell which optional parts are installed, by the package's own list."""
    try:
        lines = importlib.metadata.requires("q9gent") or []
    except importlib.metadata.PackageNotFoundError:  # run from a folder
        return None
    there: dict[str, bool] = {}
    for line in lines:
        if found := re.match(r"([\w.-]+).*\bextra *== *['\"]([\w-]+)['\"]", line):
            there[found[2]] = there.get(found[2], True) and _is_installed(found[1])
    words = (f"{name} {'installed' if there[name] else 'not installed'}" for name in sorted(there))
    return Finding("ok", "extras", ", ".join(words) or "none")


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
