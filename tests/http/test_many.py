"""Many clients at once that go away at every moment: nothing of them is left in the server."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from process_scan import descendants, wait_for
from raw_client import DEADLINE_SECONDS, RawClient, spawn_bytes
from running import address_of, agents, connect, descriptors, log_lines, runs, wait_for_runs

if TYPE_CHECKING:
    from server_process import LiveServer

CLIENTS = 100
PROMPT = "!child setsid\n!child daemon\n!lines 200 1000\n!wait"


def census(server: LiveServer) -> tuple[int, list[int]]:
    """How many descriptors the server has, and how many each of its helpers."""
    helpers = sorted(found.pid for found in descendants(server.process.pid))
    return len(descriptors(server)), sorted(_count(pid) for pid in helpers)


def _count(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:  # gone, or a zombie, which shows its own to root alone
        return 0


def stampede(server: LiveServer) -> None:
    """Have all clients start a run, each go at another moment and in another way, all at once."""
    barrier = threading.Barrier(CLIENTS)
    failures: list[BaseException] = []

    def be_a_client(number: int) -> None:
        try:
            client = RawClient(address_of(server))
            barrier.wait(DEADLINE_SECONDS)
            data = spawn_bytes(PROMPT, create_session=number % 2 == 0)
            client.send(data[: len(data) // 2] if number % 5 == 4 else data)
            if number % 5 in (0, 1):
                client.head()  # the run has started
            if number % 5 == 1:
                client.sock.recv(1000)  # within its first lines
            if number % 2:
                client.reset()
            else:
                client.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=be_a_client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * DEADLINE_SECONDS)
        assert not thread.is_alive()
    assert failures == []
    wait_for_runs(server, 0)


def test_a_hundred_disconnects_leave_nothing(server: LiveServer) -> None:
    """No process, no zombie, no descriptor: as many as after the first stampede, not one more."""
    stampede(server)
    before = census(server)
    for _ in range(2):
        stampede(server)

    def is_no_more(seen: tuple[int, list[int]]) -> bool:
        helpers = max(len(before[1]), 17)  # the fork server and its idle supervisors
        return seen[0] <= before[0] and len(seen[1]) <= helpers and max(seen[1]) <= max(before[1])

    after = wait_for(lambda: census(server), is_no_more, DEADLINE_SECONDS)
    assert is_no_more(after), (before, after, descriptors(server))
    assert agents(server) == []
    # An idle supervisor that ends right now is one until the fork server has reaped it.
    zombies = lambda: [found for found in descendants(server.process.pid) if found.state == "Z"]  # noqa: E731
    assert wait_for(zombies, lambda found: not found, DEADLINE_SECONDS) == []
    assert log_lines(server, "connection failed") == []
    assert log_lines(server, "request failed") == []
    assert log_lines(server, "run failed") == []


def test_a_hundred_turns_at_once_all_complete(server: LiveServer) -> None:
    """A hundred clients that stay each get their whole answer."""
    clients = [connect(server) for _ in range(CLIENTS)]
    try:
        for number, client in enumerate(clients):
            client.send(spawn_bytes(f"I am {number}\n!lines 100 100"))
        for number, client in enumerate(clients):
            found = client.whole()
            assert found[-1]["type"] == "completed"
            assert len(found) == 104
            assert f"I am {number}" in found[-2]["data"]
    finally:
        for client in clients:
            client.close()
    assert runs(server) == []
