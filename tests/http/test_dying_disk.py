"""A disk that hangs or fails under the server: what is told, and that nobody waits for it for ever."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
from in_process import Running, live_runs, q9gent_server, wait_until_no_run
from process_scan import wait_for
from raw_client import DEADLINE_SECONDS, RawClient, request_bytes, spawn_bytes
from sse_events import events

import q9gent.threads
from q9gent import Settings
from q9gent.output.spool import Spool
from q9gent.sessions.files import FileSessionStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sse_events import Event

SMALL_BUFFER = 4096


class Disk:
    """Where sessions are written; it hangs, until it is let go."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.failure: OSError | None = None
        self.waiting = threading.Event()
        self.came_back = threading.Event()
        create = FileSessionStore._create

        def hang(store: FileSessionStore, path: str, content: bytes) -> None:
            if content:  # not the check at the start
                self.waiting.set()
                assert self.go.wait(DEADLINE_SECONDS)
                if self.failure is not None:
                    raise self.failure
            create(store, path, content)
            if content:
                self.came_back.set()

        patch.setattr(FileSessionStore, "_create", hang)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A disk that hangs."""
    disk = Disk(monkeypatch)
    yield disk
    disk.go.set()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Those of a server that soon writes to its disk."""
    return Settings(port=0, simulate=True, session_dir=str(tmp_path / "sessions"), memory_bytes=1024)


def test_terminating_a_run_whose_start_fails_is_answered(settings: Settings, disk: Disk) -> None:
    """It was found, but it never ran: not found, and its own client hears why."""
    with q9gent_server(settings) as running, RawClient(running.address) as client:
        client.send(spawn_bytes("!wait", create_session=True))
        assert disk.waiting.wait(DEADLINE_SECONDS)
        (run,) = live_runs(running)
        with RawClient(running.address) as other:
            other.send(request_bytes("POST", f"/terminate/{run.run_id}"))
            assert wait_for(lambda: run.cause, bool, DEADLINE_SECONDS) == "terminated"
            disk.failure = OSError(errno.EIO, os.strerror(errno.EIO))
            disk.go.set()
            assert other.answer().status == 404
        answer = client.answer()
        assert answer.status == 500
        assert "Input/output error" in answer.error


def test_a_disk_that_hangs_is_given_up(
    settings: Settings, disk: Disk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The request is told, the server stops, and no session appears when the disk is back."""
    monkeypatch.setattr(q9gent.threads, "DISK_SECONDS", 0.5)
    with q9gent_server(settings) as running, RawClient(running.address) as client:
        client.send(spawn_bytes("!wait", create_session=True))
        answer = client.answer()
        assert answer.status == 500
        assert "the disk has not answered for 0.5 s" in answer.error
        wait_until_no_run(running)
    disk.go.set()
    assert disk.came_back.wait(DEADLINE_SECONDS)
    folder = tmp_path / "sessions"
    assert wait_for(lambda: os.listdir(folder), lambda names: not names, DEADLINE_SECONDS) == []


def _read_on(running: Running, prompt: str, patch: pytest.MonkeyPatch) -> list[Event]:
    """The events of a run whose spool fails once its client, who is behind, reads on."""

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with RawClient(running.address, receive_buffer=SMALL_BUFFER) as client:
        client.send(spawn_bytes(prompt))
        status, headers = client.head()
        assert status == 200
        (run,) = live_runs(running) or [None]
        assert run is not None
        assert wait_for(lambda: run.lines, lambda lines: lines > 40_000, DEADLINE_SECONDS) > 40_000
        if "!wait" not in prompt:
            wait_until_no_run(running)
        assert run.spooled_bytes > 1_000_000
        patch.setattr(Spool, "_read", fail)
        return list(events(client.parts(headers)))


@pytest.mark.parametrize("end", ["!wait", "!exit 0"], ids=["living", "dead"])
def test_spooled_output_that_cannot_be_read_is_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """As the one terminal event, after what came before: the run is not `completed`, even if it had been."""
    with q9gent_server(settings) as running:
        found: list[Any] = _read_on(running, f"!lines 40000 1000\n{end}", monkeypatch)
        wait_until_no_run(running)
    assert found[0]["type"] == "output"
    assert [one["type"] for one in found if one["type"] != "output"] == ["error"]
    assert found[-1]["code"] == "overflow"
    assert "the spool cannot be read: Input/output error" in found[-1]["error"]
