"""A program that is started with any command line, watched, and proven to leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from typing import TYPE_CHECKING

import psutil
from ordinary_lane import COMMAND
from process_scan import Found, descendants, marked, wait_for
from raw_client import DEADLINE_SECONDS, RawClient
from server_process import _environment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LAST_START_LINE = "Endpoints: "
Q9GENT = COMMAND


def listening(pid: int) -> list[int]:
    """The TCP ports on which a process listens."""
    found = [one for one in psutil.net_connections("tcp") if one.pid == pid]
    return [one.laddr.port for one in found if one.status == psutil.CONN_LISTEN]


class Program:
    """A process whose output is in files, and which carries a token like all that it starts.

    Args:
        folder: Its working directory, and the home of its files.
        argv: The command line.
        environment: Variables beside the few that it is given anyway; `None` takes one away.
        pass_fds: Descriptors that it inherits.
        out: Its stdout, if it shall not be a file.
    """

    def __init__(
        self,
        folder: str,
        argv: Sequence[str],
        *,
        environment: dict[str, str | None] | None = None,
        pass_fds: Sequence[int] = (),
        out: int | None = None,
    ) -> None:
        self.token = f"q9t{uuid.uuid4().hex}"
        self.folder = folder
        variables = {**_environment(folder=folder, token=self.token), **(environment or {})}
        with open(self._path("out"), "wb") as file, open(self._path("err"), "wb") as err:
            self.process = subprocess.Popen(
                argv,
                cwd=folder,
                env={name: value for name, value in variables.items() if value is not None},
                stdin=subprocess.DEVNULL,
                stdout=file if out is None else out,
                stderr=err,
                pass_fds=pass_fds,
            )

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, f"{name}.txt")

    def _read(self, name: str) -> str:
        with open(self._path(name), encoding="utf-8", errors="replace") as file:
            return file.read()

    @property
    def out(self) -> str:
        """What it has written to stdout."""
        return self._read("out")

    @property
    def err(self) -> str:
        """What it has written to stderr."""
        return self._read("err")

    def wait_until(self, accept: Callable[[Program], object]) -> None:
        """Wait until something is true of it."""
        assert wait_for(lambda: accept(self), bool, DEADLINE_SECONDS), f"{self.out}\n{self.err}"

    def wait_started(self) -> list[str]:
        """Wait for q9gent's last start-up line, and return where it listens."""
        self.wait_until(lambda one: LAST_START_LINE in one.out or one.process.poll() is not None)
        assert LAST_START_LINE in self.out, f"{self.process.poll()}\n{self.out}\n{self.err}"
        (line,) = [line for line in self.out.splitlines() if "Server listening on " in line]
        return line.partition("Server listening on ")[2].split(", ")

    def connect(self, url: str, **options: object) -> RawClient:
        """Connect to what a start-up line says."""
        _, _, rest = url.partition("://")
        host, _, port = rest.rpartition(":")
        return RawClient((host, int(port)), **options)  # type: ignore[arg-type]

    def exit_status(self) -> int:
        """Wait for its end."""
        return self.process.wait(DEADLINE_SECONDS)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal, and wait for its end."""
        self.process.send_signal(number)
        return self.exit_status()

    def descendants(self) -> list[Found]:
        """What it has started, and so on."""
        return descendants(self.process.pid)

    def close(self) -> None:
        """Kill it if it still runs, and prove that it and all it started are gone."""
        if self.process.poll() is None:
            self.stop()
        left = wait_for(lambda: marked(self.token), lambda found: not found, DEADLINE_SECONDS)
        for found in left:
            os.kill(found.pid, signal.SIGKILL)
        assert not left, left
