"""Endurance: mixed runs, kills, disconnects and stalls, and afterwards nothing more is held than before.

``python -m benchmarks.soak [--seconds 600] [--clients 50]``. A warm-up comes first, so that what is
allocated once (thread pool, code, as many buffers as clients need at once) is there at the first reading.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial

import trio

WARM_UP_SECONDS = 60.0
QUIET_SECONDS = 120.0
ALLOWED_GROWTH = {"rss_kib": 1.05, "blocks": 1.01}
"""Memory as the system sees it has what the allocator keeps; the interpreter's own blocks show a leak of less
than one a run."""
REQUEST_SECONDS = 60.0

HOSTILE = "!ignore-term\n!child setsid\n!child daemon\n!child scrubbed\n!wait"


class Server:
    """The server under test, and what it says it holds."""

    def __init__(self, folder: str) -> None:
        environment = {
            **os.environ,
            "Q9GENT_PORT": "0",
            "Q9GENT_SIMULATE": "1",
            "Q9GENT_SESSION_DIR": os.path.join(folder, "sessions"),
            "Q9GENT_GRACE_SECONDS": "0.3",
            "Q9GENT_CLIENT_STALL_SECONDS": "2",
            "CLAUDE_CONFIG_DIR": folder,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.port = int(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def holdings(self) -> dict[str, int]:
        """Return what the server and its helpers hold now."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        told: dict[str, int] = json.loads(self._line())
        told["processes"] = len(descendants(self.process.pid))
        return told

    def close(self) -> int:
        """Stop it, and return its exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(60)


def descendants(pid: int) -> list[int]:
    """Return all descendants of a process, zombies too."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b") ")[2].split()[1])
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(name))
    found, ahead = [], [pid]
    while ahead:
        children = parents.get(ahead.pop(), [])
        found += children
        ahead += children
    return found


class Client:
    """One request, on a connection of its own."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.received = b""

    async def ask(self, path: str, **body: object) -> None:
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        await self.stream.send_all(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)

    async def until(self, mark: bytes) -> None:
        while mark not in self.received[-200_000:]:
            data = await self.stream.receive_some(65536)
            if not data:
                raise AssertionError(f"the stream ended before {mark!r}: {self.received[-300:]!r}")
            self.received += data

    @property
    def run_id(self) -> str:
        return self.received.partition(b"x-q9gent-run-id: ")[2].partition(b"\r")[0].decode()


async def short_turn(client: Client, _port: int) -> None:
    await client.ask("/spawn", agent_type="soak", prompt="hello")
    await client.until(b'"type":"completed"')


async def burst(client: Client, _port: int) -> None:
    await client.ask("/spawn", agent_type="soak", prompt="!lines 5000 250")
    await client.until(b'"type":"completed"')


async def session(client: Client, port: int) -> None:
    await client.ask("/spawn", agent_type="soak", prompt="hello", create_session=True)
    await client.until(b'"type":"completed"')
    session_id = client.received.partition(b'"session_id":"')[2][:36].decode()
    async with await connect(port) as stream:
        following = Client(stream)
        await following.ask(f"/message/{session_id}", prompt="again")
        await following.until(b'"type":"completed"')


async def terminated(client: Client, port: int) -> None:
    await client.ask("/spawn", agent_type="soak", prompt=HOSTILE)
    await client.until(b"waiting")
    async with await connect(port) as stream:
        other = Client(stream)
        await other.ask(f"/terminate/{client.run_id}")
        await other.until(b"Process terminated successfully")
    await client.until(b'"code":"terminated"')


async def disconnected(client: Client, _port: int) -> None:
    await client.ask("/spawn", agent_type="soak", prompt=HOSTILE)
    await client.until(b"waiting")


async def left_early(client: Client, _port: int) -> None:
    await client.ask("/spawn", agent_type="soak", prompt=HOSTILE)
    await trio.sleep(random.random() / 20)  # anywhere in the start


async def reset(client: Client, _port: int) -> None:
    await client.ask("/spawn", agent_type="soak", prompt="!tick 1000 0.01")
    await client.until(b"tick")
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def stalled(client: Client, _port: int) -> None:
    await client.ask("/spawn", agent_type="soak", prompt="!lines 60000 250\n!wait")
    await client.until(b'"output"')
    await trio.sleep(4)  # takes nothing for longer than the server allows


async def refused(client: Client, _port: int) -> None:
    await client.ask("/spawn", agent_type="soak", prompt=1)
    await client.until(b"400")


KINDS = [short_turn, burst, session, terminated, disconnected, left_early, reset, stalled, refused]
WEIGHTS = [8, 2, 4, 3, 3, 3, 2, 1, 2]


async def connect(port: int) -> trio.SocketStream:
    """Open a connection."""
    return await trio.open_tcp_stream("127.0.0.1", port)


async def work(port: int, until: float, counts: Counter[str]) -> None:
    """Do one thing after another."""
    while trio.current_time() < until:
        kind = random.choices(KINDS, WEIGHTS)[0]
        with trio.fail_after(REQUEST_SECONDS):
            async with await connect(port) as stream:
                await kind(Client(stream), port)
        counts[kind.__name__] += 1


async def load(port: int, seconds: float, clients: int) -> Counter[str]:
    """Run all clients for a time."""
    counts: Counter[str] = Counter()
    until = trio.current_time() + seconds
    async with trio.open_nursery() as nursery:
        for _client in range(clients):
            nursery.start_soon(work, port, until, counts)
    return counts


def settled(server: Server) -> dict[str, int]:
    """Wait until idle threads and supervisors have ended, and return what is held."""
    lowest = server.holdings()
    end = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < end:
        time.sleep(1)
        now = server.holdings()
        if now["processes"] <= 2 and now["threads"] <= 1:
            return now
        lowest = now
    return lowest


def main() -> int:
    """Soak, and return the exit status: 1 if more is held afterwards than before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder)
        trio.run(load, server.port, WARM_UP_SECONDS, options.clients)
        before = settled(server)
        counts = trio.run(partial(load, server.port, options.seconds, options.clients))
        after = settled(server)
        status = server.close()
    print("runs:", dict(counts), "in all", sum(counts.values()))
    failed = status != 0
    for name, value in after.items():
        allowed = before[name] * ALLOWED_GROWTH.get(name, 1)
        verdict = "ok" if value <= allowed else "GREW"
        failed = failed or verdict != "ok"
        print(f"{name:<12} before {before[name]:>8}  after {value:>8}  {verdict}")
    print(f"exit status of the server: {status}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
