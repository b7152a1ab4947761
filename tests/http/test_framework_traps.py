"""The traps of the framework (11 to 13) that the server has closed, with servers in this process."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

import pytest
import trio
from in_process import Running, live_runs, wait_until_no_run
from process_scan import wait_for
from raw_client import DEADLINE_SECONDS, JSON, RawClient, request_bytes, spawn_bytes
from running import is_dead

from q9gent.containment._linux_tree import LinuxTree
from q9gent.http import connection, exchange
from q9gent.http.exchange import Exchange
from q9gent.output.pump import StdoutPump


def test_framework_limits_do_not_cut_streams(running: Running) -> None:
    """Trap 11: the framework's 60 s for an answer, and its own for a body, are off."""
    assert running.app.config["RESPONSE_TIMEOUT"] is None
    assert running.app.config["BODY_TIMEOUT"] is None
    assert running.app.config["MAX_CONTENT_LENGTH"] == running.app.settings.body_bytes


def test_stream_outlives_the_frameworks_timeout(running: Running) -> None:
    """Trap 11: were there a timeout, it would not reach the stream, which is not the framework's."""
    running.app.config["RESPONSE_TIMEOUT"] = 0.05
    with RawClient(running.address) as client:
        client.send(spawn_bytes("!tick 3 0.1"))
        assert client.whole()[-1]["type"] == "completed"


def test_endless_body_is_refused_while_it_comes(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 11: the size of a chunked body is judged as it arrives, not once it is whole."""
    monkeypatch.setattr(exchange, "DRAIN_SECONDS", 0.05)
    monkeypatch.setattr(connection, "LINGER_SECONDS", DEADLINE_SECONDS)  # until the client closes
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    with RawClient(running.address) as client:
        client.send(
            request_bytes("POST", "/spawn", chunk * 5, f"Content-Type: {JSON}", "Transfer-Encoding: chunked")
        )
        assert client.answer().status == 413


def test_defect_inside_a_run_is_logged(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Trap 12: an exception in a run is logged and told, although its client goes at the same moment."""
    reached, gone = threading.Event(), threading.Event()

    async def broken(*_: object) -> None:
        reached.set()
        await trio.to_thread.run_sync(gone.wait, DEADLINE_SECONDS)
        raise ZeroDivisionError

    monkeypatch.setattr(StdoutPump, "start", lambda _, need_task: need_task())
    monkeypatch.setattr(StdoutPump, "run", broken)
    client = RawClient(running.address)
    client.send(spawn_bytes("!wait"))
    assert reached.wait(DEADLINE_SECONDS)
    client.close()
    wait_for(lambda: live_runs(running)[0].cause, bool, DEADLINE_SECONDS)
    gone.set()
    wait_until_no_run(running)
    failed = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert any("ZeroDivisionError" in record.getMessage() for record in failed)


def test_client_gone_before_the_body_is_entered(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 13: a run whose stream never begins is ended all the same."""
    reached = threading.Event()

    async def never_start(*_: object) -> None:
        reached.set()
        await trio.sleep_forever()

    monkeypatch.setattr(Exchange, "_send", never_start)
    client = RawClient(running.address)
    client.send(spawn_bytes("!ignore-term\n!wait"))
    assert reached.wait(DEADLINE_SECONDS)
    (run,) = live_runs(running)
    pid = run.tree.pid
    assert os.path.exists(f"/proc/{pid}")
    client.close()
    wait_until_no_run(running)
    assert is_dead(pid)
    assert run.ending.code == "disconnected"


@pytest.mark.parametrize("when", ["before", "after"])
def test_client_gone_during_the_spawn(running: Running, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """Trap 13: cancelled while the process is being started, nothing of the start is left."""
    reached = threading.Event()
    started: list[LinuxTree] = []
    start = LinuxTree.start

    async def slow_start(self: LinuxTree, *args: Any) -> None:
        started.append(self)
        if when == "after":
            await start(self, *args)
        reached.set()
        await trio.sleep_forever()

    monkeypatch.setattr(LinuxTree, "start", slow_start)
    client = RawClient(running.address)
    client.send(spawn_bytes("!wait", create_session=True))
    assert reached.wait(DEADLINE_SECONDS)
    client.close()
    wait_until_no_run(running)
    (tree,) = started
    assert (tree.pid > 0) == (when == "after")
    assert tree.pid == 0 or is_dead(tree.pid)
    assert tree.death is not None
    assert os.listdir(running.app.settings.session_dir) == []
