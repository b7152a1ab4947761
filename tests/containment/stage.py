"""Where a containment strategy is put to the test, without a server around it.

An actor is a tree that runs the simulated agent. Every process of it carries the actor's session id on
its command line, which survives a scrubbed environment, so death is proven by the system's process
table: the strategy's own word is compared with it, never believed.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import process_scan
import psutil
import trio
from process_scan import GONE_SECONDS, Found

from q9gent import simulator
from q9gent.containment import Containment, Death, Launch, Tree, open_containment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

# Under Wine a Python starts in most of a second, and twenty of them on a busy machine in half a minute.
PLAY_SECONDS, LINE_SECONDS = (200.0, 100.0) if sys.platform == "win32" else (80.0, 40.0)
AGENT = (sys.executable, "-I", "-S", simulator.__file__)

LIMITS = {
    ("posix", "scrubbed"): "a process that left its session, its parents and its environment escapes",
}
"""What a strategy says that it cannot do, by strategy and behaviour: it must still be so, and be told."""


def everyone() -> list[Found]:
    """Every process of the system, zombies too."""
    if sys.platform == "linux":
        return process_scan.everyone()
    found = []
    for process in psutil.process_iter():
        try:
            with process.oneshot():
                command = " ".join(process.cmdline())
                state = "Z" if process.status() == psutil.STATUS_ZOMBIE else "S"
                started = int(process.create_time() * 1000)
                found.append(Found(process.pid, process.ppid() or 0, state, started, command))
        except psutil.Error:
            continue
    return found


def shown(found: list[Found]) -> str:
    """Processes, one a line."""
    return "".join(f"\n  {one}" for one in found) or " none"


def open_descriptors() -> list[str]:
    """What this process holds open, as far as the system tells.

    Windows has handles instead: ``test_windows_jobs`` counts them.
    """
    if sys.platform == "win32":
        return []
    folder = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    if not os.path.isdir(folder):
        return []
    found = []
    for name in os.listdir(folder):
        try:
            found.append(f"{name} {os.readlink(f'{folder}/{name}') if folder.startswith('/proc') else ''}")
        except OSError:
            continue  # the descriptor that lists them
    return sorted(found)


class Actor:
    """A tree, what it says, and the processes it was seen to have."""

    def __init__(self, tree: Tree, session: str) -> None:
        self.tree = tree
        self.session = session
        self.seen: list[Found] = []
        self._rest = b""

    async def raw(self) -> bytes:
        """The next line of stdout; what is there at its end without a newline counts; then ``b""``."""
        with trio.fail_after(LINE_SECONDS):
            while b"\n" not in self._rest:
                data = await self.tree.stdout.receive(65536)
                if not data:
                    line, self._rest = self._rest, b""
                    return line
                self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def rest(self) -> bytes:
        """What of stdout was not read as a line, and what is there now."""
        while data := self.tree.stdout.receive_nowait(65536):
            self._rest += data
        return self._rest

    async def line(self, subtype: str) -> dict[str, Any]:
        """The next line of a kind; those before it are passed over."""
        while True:
            raw = await self.raw()
            if not raw:
                ended = await self.tree.wait_exited()
                said = self.tree.stderr.receive_nowait(65536)
                raise AssertionError(f"the output ended without {subtype!r}: {ended}, {said!r}")
            line: dict[str, Any] = json.loads(raw)
            if line.get("subtype") == subtype:
                self.note()
                return line

    async def children(self, count: int) -> list[int]:
        """Wait until that many descendants are in their final state; return their pids."""
        return [(await self.line("child"))["pid"] for _ in range(count)]

    async def waiting(self) -> None:
        """Wait until the leader waits."""
        await self.line("waiting")

    def note(self) -> list[Found]:
        """Remember the processes that there are now; return all seen so far."""
        known = {(one.pid, one.started) for one in self.seen}
        self.seen += [one for one in self._with_token() if (one.pid, one.started) not in known]
        return self.seen

    def living(self) -> list[Found]:
        """The tree's processes that are not dead, by the process table."""
        return [one for one in self._with_token() if one.state != "Z"]

    def zombies(self) -> list[Found]:
        """Those that were seen, are dead and have not been reaped."""
        seen = {(one.pid, one.started) for one in self.seen}
        return [one for one in everyone() if one.state == "Z" and (one.pid, one.started) in seen]

    def _with_token(self) -> list[Found]:
        return [one for one in everyone() if self.session in one.command]


class Stage:
    """One strategy, open, and its actors."""

    containment: Containment
    scope: trio.CancelScope  # around strategy and scenario

    def __init__(self, strategy: str, record: Callable[[str, object], None]) -> None:
        self.strategy = strategy
        self.actors: list[Actor] = []
        self._record = record

    def launch(self, prompt: str, *more: str, stdin: bytes | None = None) -> tuple[Launch, str]:
        """What starts the simulated agent with a session of its own, and that session's id."""
        session = str(uuid.uuid4())
        return Launch(argv=(*AGENT, "-p", prompt, "--session-id", session, *more), stdin=stdin), session

    @asynccontextmanager
    async def actor(
        self, prompt: str, *more: str, grace_seconds: float = 0, stdin: bytes | None = None
    ) -> AsyncIterator[Actor]:
        """A tree of the simulated agent."""
        launch, session = self.launch(prompt, *more, stdin=stdin)
        async with self.play(launch, session, grace_seconds=grace_seconds) as actor:
            yield actor

    @asynccontextmanager
    async def play(self, launch: Launch, session: str, *, grace_seconds: float = 0) -> AsyncIterator[Actor]:
        """A tree of any program that carries ``session`` on its command line."""
        async with self.containment.open_tree(launch, grace_seconds=grace_seconds) as tree:
            actor = Actor(tree, session)
            self.actors.append(actor)
            yield actor

    @asynccontextmanager
    async def python(self, program: str) -> AsyncIterator[Actor]:
        """A tree of a Python program, which finds the session's id in ``sys.argv[1]``."""
        session = str(uuid.uuid4())
        launch = Launch(argv=(sys.executable, "-I", "-S", "-c", program, session))
        async with self.play(launch, session) as actor:
            yield actor

    def assert_gone(self, actor: Actor, death: Death | None, behaviour: str = "") -> None:
        """Prove that nothing of it is left, or that a limit is what the strategy says it is."""
        if death is not None:
            assert death.survivors == ()
        limit = LIMITS.get((self.strategy, behaviour))
        if limit is not None:
            self._assert_limit(actor, limit)
        left = actor.living()
        assert not left, f"alive:{shown(left)}"
        zombies = actor.zombies()
        if self.strategy != "linux":  # no reaper: what lost its parents is init's to reap, in init's own time
            zombies = [one for one in zombies if one.parent == os.getpid()]
        assert not zombies, f"zombies:{shown(zombies)}"

    def note_limit(self, limit: str) -> None:
        """Have the table say that a behaviour holds only so far as the strategy says."""
        self._record("limit", limit)

    def _assert_limit(self, actor: Actor, limit: str) -> None:
        escaped = actor.living()
        assert escaped, f"nothing escaped: {self.strategy} has this limit no more: {limit}"
        for one in escaped:
            psutil.Process(one.pid).kill()
        process_scan.wait_for(actor.living, lambda found: not found, GONE_SECONDS)
        assert "can escape" in self.containment.guarantee, "the limit must be told"
        self.note_limit(limit)

    def perform(self, scenario: Callable[[], Awaitable[None]]) -> None:
        """Open the strategy, do a scenario, and prove that not a trace is left."""

        async def main() -> None:
            with trio.move_on_after(PLAY_SECONDS) as self.scope:  # a scenario may cancel it
                async with open_containment(self.strategy) as self.containment:
                    await scenario()
            assert trio.current_time() < self.scope.deadline, "the scenario took too long"

        descriptors, children = open_descriptors(), _children()
        try:
            trio.run(main)
        finally:  # whatever happened, the next test finds a clean system
            left = [one for actor in self.actors for one in actor.living()]
            helpers = process_scan.wait_for(_new_children(children), lambda found: not found, GONE_SECONDS)
            _kill([*left, *(below for one in helpers for below in _below(one.pid)), *helpers])
        assert not left, f"alive:{shown(left)}"
        assert not helpers, f"helpers:{shown(helpers)}"
        assert open_descriptors() == descriptors


def _below(pid: int) -> list[Found]:
    table, wanted = everyone(), [pid]
    for parent in wanted:  # grows as they are found
        wanted += [one.pid for one in table if one.parent == parent and one.pid not in wanted]
    return [one for one in table if one.pid in wanted[1:]]


def _children() -> list[Found]:
    return [one for one in everyone() if one.parent == os.getpid()]


def _new_children(before: list[Found]) -> Callable[[], list[Found]]:
    known = {(one.pid, one.started) for one in before}
    return lambda: [one for one in _children() if (one.pid, one.started) not in known]


def _kill(found: list[Found]) -> None:
    now = {(one.pid, one.started): one for one in everyone()}
    for one in found:
        seen = now.get((one.pid, one.started))
        if seen is not None and seen.state != "Z":
            psutil.Process(one.pid).kill()
        if seen is not None and seen.parent == os.getpid() and sys.platform != "win32":
            os.waitpid(one.pid, 0)


def on_stage(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test of an async function of a stage and what other fixtures it asks for."""

    @functools.wraps(test)
    def performed(stage: Stage, **others: object) -> None:
        stage.perform(lambda: test(stage, **others))

    return performed


class Clock:
    """How long something took."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._began
