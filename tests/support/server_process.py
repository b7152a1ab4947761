"""A real server: started with `python -m q9gent`, spoken to over HTTP, ended by a signal."""

from __future__ import annotations

import importlib.util
import os
import queue
import re
import signal
import subprocess
import threading
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
from ordinary_lane import COMMAND
from process_scan import GONE_SECONDS, Found, descendants, everyone, marked, still_alive, wait_for
from sse_events import Event, events, whole

if TYPE_CHECKING:
    from collections.abc import Iterator

START_SECONDS = 20.0
EXIT_SECONDS = 20.0
READ_SECONDS = 45.0

LISTENING = re.compile(r"Server listening on (?:\S+, )*http://(?P<host>[^:/]+):(?P<port>\d+)\s*$")


class LiveServer:
    """One server and everything it starts, carrying `token` or working in a folder that no other has."""

    def __init__(self, folder: str, *options: str, environment: dict[str, str] | None = None) -> None:
        """Start it in `folder`, with further command-line options and environment variables."""
        self.token = f"q9t{uuid.uuid4().hex}"
        self.work_folder = os.path.join(folder, "work")
        self.session_folder = os.path.join(folder, "sessions")
        self.start_lines: list[str] = []
        self._log_path = os.path.join(folder, "stderr.log")
        os.makedirs(self.work_folder)
        with open(self._log_path, "wb") as log:
            self.process = subprocess.Popen(
                [
                    *COMMAND,
                    "--port",
                    "0",
                    "--session-dir",
                    self.session_folder,
                    *options,
                ],
                cwd=self.work_folder,
                env={**_environment(folder=folder, token=self.token), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
            )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read_lines, daemon=True)
        self._reader.start()
        self._seen: list[Found] = []
        self._run_tokens = 0
        try:
            self.host, self.port = self._wait_until_listening()
        except BaseException:
            self.process.kill()
            self._finish()
            raise
        self.client = httpx.Client(
            base_url=f"http://{self.host}:{self.port}", timeout=READ_SECONDS, trust_env=False
        )

    @property
    def log(self) -> str:
        """What the server has written to stderr."""
        with open(self._log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def run_token(self) -> str:
        """A token for one run's prompt and commands, which also carries the server's."""
        self._run_tokens += 1
        return f"{self.token}-{self._run_tokens}-"

    def spawn(self, prompt: str, **fields: object) -> list[Event]:
        """`POST /spawn`, read to the end."""
        body = {"agent_type": "test", "prompt": prompt, **fields}
        with self.post("/spawn", body) as response:
            return whole(response.iter_raw())

    def message(self, session_id: str, prompt: str, **fields: object) -> list[Event]:
        """`POST /message/{session_id}`, read to the end."""
        with self.post(f"/message/{session_id}", {"prompt": prompt, **fields}) as response:
            return whole(response.iter_raw())

    @contextmanager
    def post(self, path: str, body: object) -> Iterator[httpx.Response]:
        """Post and check that the answer is an event stream."""
        with self.client.stream("POST", path, json=body) as response:
            if response.status_code != 200:
                raise AssertionError(f"{response.status_code} {response.read()!r}\n{self.log}")
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.headers["x-q9gent-run-id"]
            yield response

    @contextmanager
    def started(self, prompt: str, **fields: object) -> Iterator[tuple[str, Iterator[Event]]]:
        """Begin a turn with a session of its own: its id and the events that follow."""
        body = {"agent_type": "test", "prompt": prompt, "create_session": True, **fields}
        with self.post("/spawn", body) as response:
            stream = events(response.iter_raw())
            first = next(stream)
            assert first["type"] == "session_created", first
            yield first["session_id"], stream

    def terminate(self, run: str) -> httpx.Response:
        """`POST /terminate/{run}`."""
        return self.client.post(f"/terminate/{run}")

    def sessions(self) -> list[dict[str, object]]:
        """What `GET /sessions` lists."""
        listed = self.client.get("/sessions")
        assert listed.status_code == 200, listed.text
        return list(listed.json()["sessions"])

    def note_descendants(self) -> list[Found]:
        """Remember every process under the server now: `close` proves that they are gone."""
        found = descendants(self.process.pid)
        self._seen += found
        return found

    def signal(self, number: int) -> int:
        """Send a signal to the server and return the exit status that it ends with."""
        self.note_descendants()
        self.process.send_signal(number)
        return self.process.wait(EXIT_SECONDS)

    def close(self) -> None:
        """Stop the server if it still runs, and prove that it and all it started are gone.

        Raises:
            AssertionError: its exit status is not 0, or something is left alive.
        """
        status = 0
        try:
            if self.process.poll() is None:
                status = self.signal(signal.SIGTERM)
        finally:
            self.client.close()
            self.process.kill()
            left = self._finish()
        assert not left, "left alive:\n" + "\n".join(map(str, left)) + f"\n{self.log}"
        assert status == 0, f"the server's exit status is {status}\n{self.log}"

    def _finish(self) -> list[Found]:
        """Wait for what the server leaves; kill and return what will not go by itself."""
        self.process.wait(EXIT_SECONDS)
        left = wait_for(self._remaining, lambda found: not found, GONE_SECONDS)
        for process in left:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._reader.join(EXIT_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return left

    def _remaining(self) -> list[Found]:
        found = [*still_alive(self._seen), *belonging(self.token, self.work_folder)]
        return list({process.pid: process for process in found}.values())

    def _read_lines(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def _wait_until_listening(self) -> tuple[str, int]:
        """Read the start-up lines, the last of which follows the one that names the port."""
        end = time.monotonic() + START_SECONDS
        found: re.Match[str] | None = None
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"the server did not start: {self.start_lines}\n{self.log}")
            self.start_lines.append(line)
            if found is not None:
                return found["host"], int(found["port"])
            found = LISTENING.search(line)


def belonging(token: str, folder: str) -> list[Found]:
    """The processes that carry `token`, or work in `folder`, which a run's do that scrub all else."""
    folder = os.path.realpath(folder)
    at_home = [process for process in everyone() if _works_in(process.pid, folder)]
    return list({process.pid: process for process in (*marked(token), *at_home)}.values())


def _works_in(pid: int, folder: str) -> bool:
    try:
        place = os.readlink(f"/proc/{pid}/cwd")
    except OSError:  # gone, or a zombie, which works nowhere
        return False
    return f"{place.removesuffix(' (deleted)')}/".startswith(f"{folder}/")


def _environment(*, folder: str, token: str) -> dict[str, str]:
    """Nothing of the tester's own."""
    package = importlib.util.find_spec("q9gent")
    assert package is not None
    assert package.submodule_search_locations
    home = os.path.join(folder, "home")
    os.makedirs(home, exist_ok=True)
    kept = (
        "PATH",
        "LANG",
        "LC_ALL",
        "TMPDIR",
        "COVERAGE_PROCESS_START",
        "COVERAGE_PROCESS_CONFIG",
        "COVERAGE_FILE",
    )
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "PYTHONPATH": os.path.dirname(package.submodule_search_locations[0]),
        "PYTHONUTF8": "1",
        "HOME": home,
        "CLAUDE_CONFIG_DIR": os.path.join(home, ".claude"),
        "Q9_TEST_TOKEN": token,
    }
