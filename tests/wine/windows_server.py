"""A real server on Windows: started with `python -m q9gent`, spoken to over HTTP, ended by TerminateProcess.

Everything carries a token on its command line: the server in its options, an agent in its prompt, and
its descendants their session's id.
"""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import threading
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import psutil
from sse_events import Event, events, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE_SECONDS = 120.0
POLL_SECONDS = 0.02
START_LINES = 5

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LISTENING = re.compile(r"Server listening on http://127\.0\.0\.1:(\d+)$")


class Lines:
    """A pipe that a thread empties, so that it never fills and every wait has a deadline."""

    def __init__(self, pipe: Any, encoding: str) -> None:
        self.text = ""
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._thread = threading.Thread(target=self._read, args=(pipe, encoding), daemon=True)
        self._thread.start()

    def _read(self, pipe: Any, encoding: str) -> None:
        with pipe:
            for line in pipe:
                decoded = line.decode(encoding)
                self.text += decoded
                self._lines.put(decoded.rstrip("\r\n"))
        self._lines.put(None)

    def next(self) -> str | None:
        """The next line; None at the end."""
        return self._lines.get(timeout=DEADLINE_SECONDS)

    def close(self) -> None:
        """Wait for the end: while anybody holds the pipe there is none."""
        self._thread.join(DEADLINE_SECONDS)
        assert not self._thread.is_alive(), "somebody still holds the pipe"


class WindowsServer:
    """One server and what it started. Its `close` kills it and proves that nothing is left."""

    def __init__(
        self,
        folder: str,
        *options: str,
        environment: dict[str, str] | None = None,
        encoding: str = "utf-8",
        flags: int = 0,
    ) -> None:
        """Start it in `folder`, and wait for its start-up lines, which are in `encoding`."""
        self.token = f"q9w{uuid.uuid4().hex}"
        self.session_folder = os.path.join(folder, f"sessions-{self.token}")
        own = {"PYTHONPATH": ROOT, "CLAUDE_CONFIG_DIR": os.path.join(folder, "agent")}
        command = [sys.executable, "-m", "q9gent", "--port", "0", "--session-dir", self.session_folder]
        self.process = subprocess.Popen(
            [*command, *options],
            cwd=folder,
            env=os.environ | own | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            creationflags=flags,
        )
        self._log = Lines(self.process.stderr, "utf-8")
        self._output = Lines(self.process.stdout, encoding)
        self._marks = {self.token}
        self.client: httpx.Client | None = None
        try:
            self.start_lines = [self._output.next() for _ in range(START_LINES)]
            found = [LISTENING.search(line or "") for line in self.start_lines]
            (self.port,) = (int(one[1]) for one in found if one)
        except BaseException:
            self.process.kill()
            self.process.wait(DEADLINE_SECONDS)
            self._log.close()
            sys.stderr.write(self.log)
            raise
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", timeout=DEADLINE_SECONDS, trust_env=False
        )

    @property
    def log(self) -> str:
        """What it has written to stderr."""
        return self._log.text

    def prompt(self, *rows: str) -> str:
        """A prompt that carries the token."""
        return "\n".join([*rows, self.token])

    def post(self, path: str, body: object) -> httpx.Response:
        """Post, and return the whole answer."""
        assert self.client is not None
        return self.client.post(path, json=body)

    def get(self, path: str) -> httpx.Response:
        """Get."""
        assert self.client is not None
        return self.client.get(path)

    @contextmanager
    def stream(self, path: str, **body: object) -> Iterator[Iterator[Event]]:
        """Post, check that the answer is an event stream, and give its events as they arrive."""
        assert self.client is not None
        with self.client.stream("POST", path, json=body) as response:
            if response.status_code != 200:
                raise AssertionError(f"{response.status_code} {response.read()!r}\n{self.log}")
            assert response.headers["content-type"].startswith("text/event-stream")
            yield events(response.iter_raw())

    def turn(self, path: str, *rows: str, **fields: object) -> list[Event]:
        """Post a prompt and read its stream to the end."""
        body = {"prompt": self.prompt(*rows), **fields}
        if path == "/spawn":
            body["agent_type"] = "test"
        assert self.client is not None
        with self.client.stream("POST", path, json=body) as response:
            if response.status_code != 200:
                raise AssertionError(f"{response.status_code} {response.read()!r}\n{self.log}")
            return whole(response.iter_raw())

    def note(self, session_id: str) -> None:
        """Remember a session: its processes must be gone in the end."""
        self._marks.add(session_id)

    def find(self, *marks: str) -> list[int]:
        """The processes of the system with one of these marks on their command line.

        Without marks: with any that is known here.
        """
        wanted = marks or tuple(self._marks)
        found = []
        for process in psutil.process_iter():
            try:
                command = " ".join(process.cmdline())
            except (psutil.Error, OSError):  # one that dies while it is being read
                continue
            if any(mark in command for mark in wanted):
                found.append(process.pid)
        return found

    def kill(self) -> None:
        """End the server as the Task Manager does: it has no say."""
        self.process.kill()
        self.process.wait(DEADLINE_SECONDS)

    def close(self) -> None:
        """Kill the server if it still runs, and prove that nothing of it is left.

        Raises:
            AssertionError: Something is left alive, or the server failed on something.
        """
        if self.client is not None:
            self.client.close()
        self.kill()
        left = until(self.find, lambda pids: not pids)
        for pid in left:
            psutil.Process(pid).kill()
        self._log.close()
        self._output.close()
        assert not left, f"left alive: {left}\n{self.log}"
        assert "Traceback" not in self.log, self.log


def until(probe: Callable[[], Any], accept: Callable[[Any], object]) -> Any:
    """Probe until the answer is accepted or the deadline is over, and return the last answer."""
    end = time.monotonic() + DEADLINE_SECONDS
    while True:
        answer = probe()
        if accept(answer) or time.monotonic() > end:
            return answer
        time.sleep(POLL_SECONDS)
