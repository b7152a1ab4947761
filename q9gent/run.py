"""One run: a process tree, its pumps and its deadline in one nursery, and exactly one ending.

The order at the end is the promise of the project: the tree is dead, then the terminal event is
written, then whoever asked for the end is answered.
"""

from __future__ import annotations

import functools
import time
import uuid
from contextvars import copy_context
from typing import TYPE_CHECKING

import msgspec
import trio

from q9gent.containment.protocol import ContainmentLost, Death
from q9gent.ending import Ending
from q9gent.log import get_logger
from q9gent.output.outbox import Outbox
from q9gent.output.pump import StderrPump, StdoutPump
from q9gent.output.spool import Spool, SpoolFull
from q9gent.wire.events import Code, SessionCreated, encode_event
from q9gent.wire.lines import LineTooLong

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from q9gent.containment.protocol import ExitStatus, Tree
    from q9gent.hub import Hub
    from q9gent.observer import RunObserver
    from q9gent.settings import Settings

LATE: tuple[Code, ...] = ("overflow", "internal")

logger = get_logger("q9gent.run")


class Run:
    """A run, from the moment it is asked for.

    Attributes:
        run_id: Its own UUID.
        session_id: The session whose turn it is, and which it locks.
        agent_type: The caller's label.
        started_at: Unix time in seconds.
        outbox: Its events, for the delivery to its client.
        ending: The facts of its end, from the moment ``dead`` is set; ``None`` then if its start failed.
        dead: Set once its tree is dead (or was never started), and only then.
        scope: Cancelled by ``end``; it holds everything from queueing to death.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        session_id: str | None,
        agent_type: str,
        observer: RunObserver | None = None,
    ) -> None:
        self.run_id = str(uuid.uuid4())
        self.session_id = session_id
        self.agent_type = agent_type
        self.started_at = time.time()
        self._spool = Spool(settings.spool_bytes, settings.spool_dir)
        self.outbox = Outbox(settings.memory_bytes, self._spool)
        self.scope = trio.CancelScope()
        self.ending: Ending | None = None
        self.dead = trio.Event()
        self.tree: Tree | None = None
        self._settings = settings
        self._observer = observer
        self._cause: Code | None = None
        self._detail = ""
        self._began = trio.current_time()
        self._status: ExitStatus | None = None
        self._death: Death | None = None
        self._concluded = False
        self._stdout: StdoutPump | None = None

    @property
    def cause(self) -> Code | None:
        """What ended it from outside, if anything has yet."""
        return self._cause

    @property
    def lines(self) -> int:
        """Output events so far."""
        return self._stdout.lines if self._stdout else 0

    @property
    def bytes(self) -> int:
        """Output bytes so far."""
        return self._stdout.bytes if self._stdout else 0

    @property
    def spooled_bytes(self) -> int:
        """Output bytes that wait on disk, also after the run's end."""
        return self._spool.waiting_bytes

    def end(self, cause: Code, detail: str = "") -> None:
        """Have it ended; returns at once, ``dead`` tells when it is.

        The first cause is kept. Once its tree is dead, nothing can be its cause any more, but for what is
        found wrong with the output that is still in the pipe.
        """
        if cause == "stalled" and self._observer is not None:
            self._observer.stalled()
        if self._cause is None and not self._concluded and (cause in LATE or not self.dead.is_set()):
            self._cause = cause
            self._detail = detail
        self.scope.cancel()

    def lose_output(self, reason: str) -> None:
        """Have the client told that output which waited for it is lost, in place of any other end."""
        logger.error("output that waited for its client is lost", reason=reason)
        self.end("overflow", reason)
        self.outbox.lose()
        if self._concluded and self.ending is not None:
            ending = msgspec.structs.replace(self.ending, cause="overflow", detail=reason)
            self.outbox.finish(encode_event(ending.terminal_event()))

    async def execute(
        self,
        opening: AbstractAsyncContextManager[Tree],
        *,
        announce_session: bool,
        hub: Hub | None = None,
        task_status: trio.TaskStatus[Run],
    ) -> None:
        """Run the process until its tree is dead.

        Args:
            opening: The tree, not started yet.
            announce_session: Send ``session_created`` first.
            hub: What reads its pipes, if there is one.
            task_status: Told once the process runs.

        Raises:
            SpawnError: The process could not be started; then there is no ending.

        Cancellation: ends the run like any other cause; shielded and bounded
        (``grace_seconds`` and ``KILL_TIMEOUT_SECONDS``).
        """
        began = trio.current_time()
        async with opening as tree:
            self.tree = tree
            if self._observer is not None:
                self._observer.spawned(trio.current_time() - began)
            if announce_session and self.session_id is not None:
                self.outbox.put_nowait(encode_event(SessionCreated(session_id=self.session_id)))
            self._stdout = StdoutPump(tree, self.outbox, line_bytes=self._settings.line_bytes, hub=hub)
            stderr = StderrPump(tree, hub=hub)
            task_status.started(self)
            try:
                async with trio.open_nursery() as nursery:
                    pumps = (self._stdout, stderr)
                    context = copy_context()  # the hub's task, which may ask for a pump's, knows no run
                    for pump in pumps:
                        start_task = functools.partial(nursery.start_soon, self._pump, pump)
                        pump.start(functools.partial(context.run, start_task))
                    if self._settings.max_run_seconds is not None:
                        nursery.start_soon(self._limit_time, self._settings.max_run_seconds)
                    try:
                        await self._watch(tree)
                    finally:
                        await self._end(tree)
                        for pump in pumps:
                            if pump.stop():
                                await self._pump(pump)
                        nursery.cancel_scope.cancel()  # the deadline; the pumps are shielded
            finally:
                self.conclude()

    async def _watch(self, tree: Tree) -> None:
        try:
            self._status = await tree.wait_exited()
        except trio.Cancelled:
            if self._cause is None:  # the request's nursery was cancelled: its server or client is going
                self.end("disconnected")
            raise
        except ContainmentLost as error:
            self.end("internal", str(error))
        except Exception:
            self._fail()

    async def _end(self, tree: Tree) -> None:
        began = trio.current_time()
        with trio.CancelScope(shield=True):  # bounded: see Tree.end
            try:
                self._death = await tree.end(self._settings.grace_seconds)
                if self._status is None:
                    with trio.move_on_after(1):  # it is known by now, or never will be
                        self._status = await tree.wait_exited()
            except ContainmentLost as error:
                self.end("internal", str(error))
            except Exception:
                self._fail()
        self.ending = self._make_ending()
        self.dead.set()
        if self._observer is not None:
            self._observer.died(self.ending, trio.current_time() - began)

    async def _pump(self, pump: StdoutPump | StderrPump) -> None:
        try:
            await pump.run()
        except (LineTooLong, SpoolFull) as error:
            self.end("overflow", str(error))
        except Exception:
            self._fail()

    async def _limit_time(self, seconds: float) -> None:
        await trio.sleep(seconds)
        self.end("timeout", f"{seconds:g} s")

    def _fail(self) -> None:
        # Logged here, inside the run: in a group with a cancellation it would vanish further up.
        logger.error("run failed", exc_info=True)  # noqa: LOG014 (called while handling it)
        self.end("internal")

    def _make_ending(self) -> Ending:
        return Ending(
            cause=self._cause,
            detail=self._detail,
            status=self._status,
            death=self._death if self.tree is not None else Death(),  # never started: nothing to die
            duration_ms=round((trio.current_time() - self._began) * 1000),
        )

    def conclude(self) -> None:
        """Write the terminal event: the tree is dead, or was never started, and all output is in."""
        ending = self.ending = self._make_ending()
        self._concluded = True
        self.dead.set()
        self.outbox.finish(encode_event(ending.terminal_event()))
        log = logger.info if ending.code is None else logger.warning
        log(
            "run ended",
            session_id=self.session_id,
            lines=self.lines,
            bytes=self.bytes,
            **ending.facts(),
        )
        if ending.code is None and (self._stdout is None or not self._stdout.saw_result):
            logger.warning("exit status 0 without a result line: the turn may be incomplete")
