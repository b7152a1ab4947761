"""q9gent as process 1, as in a container without an init."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from process_scan import descendants
from sse_events import events

SECONDS = 30.0
UNSHARE = shutil.which("unshare")


class Container:
    """A process namespace whose process 1 is the server; it dies with what is in it."""

    def __init__(self, folder: Path) -> None:
        assert UNSHARE is not None
        serve = [sys.executable, "-m", "q9gent", "--simulate", "--port", "0", "--grace-seconds", "0.2"]
        self.process = subprocess.Popen(
            [UNSHARE, "--pid", "--fork", "--mount-proc", "--kill-child", *serve],
            cwd=folder, env={**os.environ, "CLAUDE_CONFIG_DIR": str(folder)},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        told = next((line for line in self.process.stdout if "Server listening on" in line), "")
        (url,) = re.findall(r"http://\S+", told)
        self.client = httpx.Client(base_url=url, timeout=SECONDS, trust_env=False)

    @property
    def server(self) -> int:
        """Process 1, by its number outside."""
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as file:
            (pid,) = file.read().split()
        return int(pid)

    def close(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait(SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    """A server that is process 1."""
    if UNSHARE is None or os.geteuid() != 0:
        pytest.skip("a process namespace takes root and unshare")
    can = subprocess.run(
        [UNSHARE, "--pid", "--fork", "--mount-proc", "true"], capture_output=True, check=False
    )
    if can.returncode:
        pytest.skip(f"no process namespace can be had here: {can.stderr.decode().strip()}")
    container = Container(tmp_path)
    yield container
    container.close()


def test_a_run_leaves_no_zombie_to_process_one(container: Container) -> None:
    """Its supervisor kills and reaps every process, whoever is process 1."""
    prompt = "!ignore-term\n!child daemon 3\n!child scrubbed\n!child setsid\n!wait"
    with container.client.stream("POST", "/spawn", json={"agent_type": "t", "prompt": prompt}) as response:
        stream = events(response.iter_raw())
        next(event for event in stream if "waiting" in event.get("data", ""))
        before = descendants(container.server)
        assert sum("simulator.py" in found.command for found in before) == 6
        answer = container.client.post(f"/terminate/{response.headers['x-q9gent-run-id']}").json()
        assert answer["killed"] == 6
        left = descendants(container.server)
        assert [found for found in left if "simulator.py" in found.command or found.state == "Z"] == []


def test_process_one_stops_when_asked(container: Container) -> None:
    """A signal that process 1 does not handle would be dropped by the kernel."""
    os.kill(container.server, signal.SIGTERM)
    assert container.process.wait(SECONDS) == 0
