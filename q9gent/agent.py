"""The agent's program: where the CLI is, and what its version knows."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from typing import TYPE_CHECKING

import trio

from q9gent.command import AgentFeatures
from q9gent.containment.protocol import ContainmentLost, Launch, SpawnError
from q9gent.errors import ProcessSpawnFailed
from q9gent.log import get_logger
from q9gent.npm_shim import resolve_shim

if TYPE_CHECKING:
    from q9gent.containment.protocol import Containment
    from q9gent.settings import Settings

logger = get_logger("q9gent.agent")

SNAPSHOT_VERSION = (2, 1, 257)
"""The first version that knows ``--system-prompt-snapshot`` (2.1.252, the one published before, does
not: measured)."""

PROBE_SECONDS = 10.0
"""For ``--version``, which takes 12 to 190 ms (measured)."""

PROBE_BYTES = 4096

SIMULATOR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "simulator.py")


class AgentProgram:
    """Finds the program when it is needed, and remembers it while it stays."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._found: tuple[str, ...] | None = None
        self._features: tuple[object, AgentFeatures] | None = None
        self._probing = trio.Lock()

    def find(self) -> tuple[str, ...]:
        """Return what to start: a program, and where it is a script, its interpreter before it.

        Raises:
            ProcessSpawnFailed: There is no such program.
        """
        if self._found is None:
            self._found = self._look()
        return self._found

    def forget(self) -> None:
        """Look again next time: it could not be started."""
        self._found = None

    def _look(self) -> tuple[str, ...]:
        if self._settings.simulate:
            return (sys.executable, "-I", "-S", SIMULATOR)
        name = self._settings.claude_path
        path = _which(name)
        if path is None and os.path.basename(name) == name == "claude":
            path = _bundled_cli()
        if path is None:
            if os.path.basename(name) != name and os.path.exists(name):
                path = name  # not executable, or a folder: the system shall say so
            else:
                raise ProcessSpawnFailed("No such file or directory")
        if sys.platform == "win32" and path.lower().endswith((".cmd", ".bat")):
            return _behind_shim(path)
        return (path,)

    async def features(self, containment: Containment) -> AgentFeatures:
        """Return what the installed version knows; the answer is kept until the file changes.

        A version that was not told is taken for an old one, and asked for again next time.

        Cancellation: ends the probe, whose tree dies like any other.
        """
        agent = self.find()
        async with self._probing:
            key = (agent, _file_identity(agent[-1]))
            if self._features is None or self._features[0] != key:
                version = await self._probe(agent, containment)
                if version is None:
                    logger.warning("the agent did not tell its version, taking it for an old one")
                    return AgentFeatures()
                self._features = (key, AgentFeatures(system_prompt_snapshot=version >= SNAPSHOT_VERSION))
            return self._features[1]

    async def _probe(self, agent: tuple[str, ...], containment: Containment) -> tuple[int, ...] | None:
        output = b""
        launch = Launch(argv=(*agent, "--version"))
        try:
            with trio.move_on_after(PROBE_SECONDS):
                async with containment.open_tree(launch, grace_seconds=0) as tree:
                    while len(output) < PROBE_BYTES:
                        data = await tree.stdout.receive(PROBE_BYTES)
                        if not data:
                            break
                        output += data
        except (SpawnError, ContainmentLost) as error:
            logger.warning("the agent's version could not be asked for", reason=str(error))
        match = re.search(rb"(\d+)\.(\d+)\.(\d+)", output)
        return None if match is None else tuple(int(part) for part in match.groups())


def _which(name: str) -> str | None:
    """Return the path of a command, where a bare name is looked for in PATH alone.

    Windows looks into the working directory first, and so does ``shutil.which`` there: a repository that
    carries a ``claude.exe`` or a ``node.exe`` would become the agent.
    """
    if sys.platform == "win32" and os.path.basename(name) == name:
        endings = os.environ.get("PATHEXT", ".COM;.EXE;.BAT;.CMD").lower().split(";")
        names = [name] if name.lower().endswith(tuple(endings)) else [name + ending for ending in endings]
        folders = filter(os.path.isabs, os.environ.get("PATH", "").split(os.pathsep))
        paths = (os.path.join(folder, one) for folder in folders for one in names)
        return next(filter(os.path.isfile, paths), None)
    return shutil.which(name)


def _bundled_cli() -> str | None:
    """Return the CLI that the claude-agent-sdk wheel carries, without importing the package."""
    try:
        spec = importlib.util.find_spec("claude_agent_sdk")
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    name = "claude.exe" if sys.platform == "win32" else "claude"
    path = os.path.join(os.path.dirname(spec.origin), "_bundled", name)
    return path if os.path.isfile(path) else None


def _behind_shim(path: str) -> tuple[str, ...]:
    """Return what a Windows launcher script runs: a caller's text must not pass through cmd.exe."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return resolve_shim(path, file.read(65536), exists=os.path.exists, which=_which)
    except (OSError, ValueError) as error:
        raise ProcessSpawnFailed(str(error)) from error


def _file_identity(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns, status.st_size)
