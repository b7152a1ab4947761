"""The live runs: who may start, who is found by which id, and how all are ended."""

from __future__ import annotations

import errno
import time
import uuid
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec
import trio
from structlog.contextvars import bound_contextvars

from q9gent.admission import Admission
from q9gent.command import AgentFeatures, Turn, build_launch, largest_field, needs_features
from q9gent.containment.protocol import ContainmentLost, SpawnError
from q9gent.errors import (
    AtCapacity,
    ProcessSpawnFailed,
    Q9gentError,
    RunNotFound,
    SessionBusy,
    SessionStoreFailed,
    ShuttingDown,
    SurvivorsLeft,
    TooLarge,
)
from q9gent.log import get_logger
from q9gent.run import Run
from q9gent.sessions import Session
from q9gent.wire.requests import MessageRequest, SpawnRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from q9gent.agent import AgentProgram
    from q9gent.containment.protocol import Containment, Tree
    from q9gent.ending import Ending
    from q9gent.hub import Hub
    from q9gent.observer import RunObserver
    from q9gent.sessions import SessionStore
    from q9gent.settings import Settings

logger = get_logger("q9gent.run")

NO_ROOM = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ETOOMANYREFS}
"""The system has no process, memory or descriptor to give: not the request's fault, and it may pass."""

STORE_SECONDS = 30.0
"""For removing the session of a run that never started: a store that hangs must not hold its end up."""

PROMPT_LOG_CHARACTERS = 8 * 1024
"""A longer prompt is cut in the log: it may have megabytes, and collectors of logs split long lines."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A turn that was asked for.

    Attributes:
        request: The decoded body.
        turn: The conversation.
        agent_type: The caller's label; a continued session keeps its own.
    """

    request: MessageRequest
    turn: Turn
    agent_type: str

    @classmethod
    def from_spawn(cls, request: SpawnRequest) -> Order:
        """Return the order of ``POST /spawn``."""
        new_id = str(uuid.uuid4()) if request.create_session else None
        turn = Turn(new_id=new_id, resume_id=request.resume_id)
        return cls(request=request, turn=turn, agent_type=request.agent_type)

    @classmethod
    def from_message(cls, request: MessageRequest, session: Session) -> Order:
        """Return the order of ``POST /message/{session_id}``."""
        turn = Turn(resume_id=session.session_id)
        return cls(request=request, turn=turn, agent_type=session.agent_type)

    @property
    def locked_session(self) -> str | None:
        """The session that has this turn. A fork only reads the one it continues."""
        return self.turn.new_id or self.turn.resume_id


class Runs:
    """All live runs of a server."""

    def __init__(
        self,
        settings: Settings,
        containment: Containment,
        agent: AgentProgram,
        store: SessionStore,
        *,
        hub: Hub | None = None,
        observer: RunObserver | None = None,
    ) -> None:
        self._hub = hub
        self._settings = settings
        self._containment = containment
        self._agent = agent
        self._store = store
        self._observer = observer
        self._admission = Admission(settings.max_runs, settings.queue_seconds)
        self._by_id: dict[str, Run] = {}
        self._by_session: dict[str, Run] = {}
        self._closing = False
        self._changed = trio.Event()

    def prepare(self, order: Order) -> Run:
        """Return a run that is not started, and holds nothing."""
        run = Run(
            self._settings,
            session_id=order.locked_session,
            agent_type=order.agent_type,
            observer=self._observer,
        )
        if self._observer is not None:
            self._observer.prepared(run)
        return run

    async def execute(
        self,
        order: Order,
        run: Run,
        *,
        task_status: trio.TaskStatus[Run] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Do one run, from its place in the queue to the death of its last process.

        Started in the request's nursery, which so owns the process. ``task_status`` is told once the
        process runs; what it is told of, the run, has the output.

        Raises:
            AtCapacity, ProcessSpawnFailed, SessionBusy, SessionStoreFailed, ShuttingDown, TooLarge:
                Before the process runs; nothing is left of the attempt.

        Cancellation: ends the run; see ``Run.execute``.
        """
        if self._closing:
            raise ShuttingDown
        with bound_contextvars(run_id=run.run_id), self._registered(run):
            with run.scope:
                async with self._admission.place(), self._stored(order, run):
                    await self._execute(order, run, task_status)
            if run.ending is None:  # ended while it waited for its start: the client hears why
                if run.cause == "shutdown":
                    raise ShuttingDown
                run.conclude()
                task_status.started(run)

    async def _execute(self, order: Order, run: Run, task_status: trio.TaskStatus[Run]) -> None:
        features = AgentFeatures()
        if needs_features(order.request, order.turn):
            features = await self._agent.features(self._containment)
        if self._settings.log_prompts:
            prompt = order.request.prompt
            cut = len(prompt) > PROMPT_LOG_CHARACTERS
            logger.info("run started", prompt=prompt[:PROMPT_LOG_CHARACTERS], cut=cut)
        launch = build_launch(order.request, order.turn, agent=self._agent.find(), features=features)
        tree = self._containment.open_tree(launch, grace_seconds=self._settings.grace_seconds)
        try:
            await run.execute(
                tree,
                announce_session=order.turn.new_id is not None,
                hub=self._hub,
                task_status=task_status,
            )
        except SpawnError as error:
            logger.error("process spawn failed", reason=error.reason, program=launch.argv[0])
            if error.errno == errno.E2BIG:
                field = largest_field(order.request)
                raise TooLarge(f"Longer than a command line can be - at `{field}`") from error
            if error.errno in NO_ROOM:
                raise AtCapacity(error.reason, retry_after_seconds=1) from error
            self._agent.forget()
            raise ProcessSpawnFailed(error.reason) from error

    @asynccontextmanager
    async def _stored(self, order: Order, run: Run) -> AsyncIterator[None]:
        """Have the session stored before its process prints a line; a failed spawn leaves none."""
        new_id, resume_id = order.turn.new_id, order.turn.resume_id
        try:
            if new_id is not None:
                now = int(time.time())
                session = Session(
                    session_id=new_id, agent_type=order.agent_type, created_at=now, last_used=now
                )
                await self._store.save(session)
            elif resume_id is not None:
                try:
                    await self._store.touch(resume_id)
                except SessionStoreFailed as error:
                    logger.warning("last use not stored", reason=str(error))
            yield
        finally:
            if new_id is not None and run.tree is None:  # it never ran
                with trio.move_on_after(STORE_SECONDS, shield=True), suppress(SessionStoreFailed):
                    await self._store.delete(new_id)

    @contextmanager
    def _registered(self, run: Run) -> Iterator[None]:
        """Have it found by its ids while it lives. Nothing is awaited between check and claim."""
        if run.session_id is not None:
            if run.session_id in self._by_session:
                raise SessionBusy(run.session_id)
            self._by_session[run.session_id] = run
        self._by_id[run.run_id] = run
        try:
            yield
        except Q9gentError as error:
            if self._observer is not None:
                self._observer.failed(error)
            raise
        except BaseException as error:
            # Cancelled while it waited for its start: with the request, so nobody went on to conclude it.
            if run.ending is None and not isinstance(error, Exception):
                run.end("disconnected")
                run.conclude()
            raise
        finally:
            if self._observer is not None:
                self._observer.ended(run)
            run.dead.set()  # also if it never ran: who waits for its end is answered
            del self._by_id[run.run_id]
            if run.session_id is not None:
                del self._by_session[run.session_id]
            self._changed.set()
            self._changed = trio.Event()

    def find(self, run_or_session_id: str) -> Run:
        """Return a live run.

        Raises:
            RunNotFound: There is none of this id.
        """
        run = self._by_id.get(run_or_session_id) or self._by_session.get(run_or_session_id)
        if run is None:
            raise RunNotFound(run_or_session_id)
        return run

    def is_live(self, session_id: str) -> bool:
        """Tell whether a session has a live run."""
        return session_id in self._by_session

    @property
    def waiting(self) -> int:
        """How many of the live runs wait for a place."""
        return self._admission.waiting

    def live(self) -> list[Run]:
        """Return the live runs, the oldest first."""
        return list(self._by_id.values())

    async def terminate(self, run_or_session_id: str) -> tuple[Run, Ending]:
        """End a run and wait until every process of it is dead.

        Raises:
            RunNotFound: There is none of this id, or its start failed meanwhile.
            SurvivorsLeft: Something could not be killed.

        Cancellation: the run is ended all the same.
        """
        run = self.find(run_or_session_id)
        run.end("terminated")
        await run.dead.wait()
        if run.ending is None:
            raise RunNotFound(run_or_session_id)
        if run.tree is not None and (run.ending.death is None or run.ending.death.survivors):
            raise SurvivorsLeft(run.ending.death.survivors if run.ending.death else None)
        return run, run.ending

    async def close(self) -> None:
        """Start nothing more, end every run, and wait until all are dead.

        Cancellation: gives up the wait; the runs are ended all the same.
        """
        self._closing = True
        for run in self.live():
            run.end("shutdown")
        while self._by_id:
            await self._changed.wait()

    async def kill_now(self) -> None:
        """Cut the grace of runs that are being ended short."""

        async def kill(tree: Tree) -> None:
            with suppress(ContainmentLost):  # the run tells
                await tree.end(0)

        async with trio.open_nursery() as nursery:
            for run in self.live():
                if run.tree is not None:
                    nursery.start_soon(kill, run.tree)
