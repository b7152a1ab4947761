"""``q9gent run``: a turn, shown as it comes; ^C ends it, and says what that took."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import trio

from q9gent.cli.ids import BadId, find_session, is_whole
from q9gent.cli.outcome import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    finish,
    is_broken_pipe,
    status_of_error,
    words_for,
)
from q9gent.cli.terminal import Screen, silence_stdout
from q9gent.cli.transcript import Transcript
from q9gent.client import (
    AsyncClient,
    ClientError,
    Completed,
    Event,
    Failed,
    Output,
    RunNotFound,
    SessionCreated,
)
from q9gent.client._base import survivors_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Any

    from q9gent.client import AsyncRun, Termination

REST_SECONDS = 5.0
"""After ^C, for what is still to be delivered of a run that has ended; it is not shown."""


class Order(NamedTuple):
    """What the command line asks for."""

    prompt: str
    session_id: str | None
    new_session: bool
    agent_type: str
    options: dict[str, Any]

    def on(self, client: AsyncClient) -> AsyncRun:
        """Return the run that it stands for."""
        if self.session_id is not None and not self.new_session:
            return client.message(self.session_id, self.prompt, **self.options)
        return client.spawn(
            self.prompt,
            agent_type=self.agent_type,
            resume_id=self.session_id,
            create_session=self.new_session,
            **self.options,
        )


def run_command(url: str, order: Order, *, as_json: bool, quiet: bool) -> int:
    """Do a turn, show it, and return the exit status."""
    screen = Screen(quiet=quiet)
    status = finish(lambda: trio.run(_run, url, order, screen, as_json))
    if screen.is_writing:  # a thread is stuck in a write that nobody reads, and would hold us up for ever
        os._exit(status)
    return status


def read_prompt() -> str:
    """Return the prompt on standard input.

    Raises:
        ValueError: It is not UTF-8.
    """
    if sys.stdin.isatty():
        sys.stderr.write("Reading the prompt from the terminal; ^D ends it.\n")
    return sys.stdin.buffer.read().decode()


async def _run(url: str, order: Order, screen: Screen, as_json: bool) -> int:  # noqa: FBT001 (trio.run's)
    async with AsyncClient(url) as client:
        if order.session_id is not None and not is_whole(order.session_id):
            try:
                session_id = find_session(order.session_id, await client.sessions())
            except BadId as error:
                screen.fail(str(error))
                return EXIT_FAILURE
            order = order._replace(session_id=session_id)
        return await Turn(order.on(client), screen, as_json=as_json).execute()


class Turn:
    """One turn on the command line: a task that follows the run, and one that waits for ^C."""

    def __init__(self, run: AsyncRun, screen: Screen, *, as_json: bool) -> None:
        self._run = run
        self._screen = screen
        self._as_json = as_json
        self._transcript = Transcript()
        self._interrupted = False
        self._showing = trio.CancelScope()
        self._followed = trio.Event()
        self._status = EXIT_INTERRUPTED

    async def execute(self) -> int:
        """Follow the run to its end, and return the exit status.

        Cancellation: ends the run; shielded and bounded (see ``AsyncRun``).
        """
        with contextlib.ExitStack() as stack:
            async with trio.open_nursery() as nursery:
                if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # in a shell's background job it is
                    interrupts = stack.enter_context(trio.open_signal_receiver(signal.SIGINT))
                    nursery.start_soon(self._watch, interrupts, nursery)
                await self._follow()
                self._followed.set()
                if not self._interrupted:  # else its end is still to be told
                    nursery.cancel_scope.cancel()
        return EXIT_INTERRUPTED if self._interrupted else self._status

    async def _watch(self, interrupts: AsyncIterator[int], nursery: trio.Nursery) -> None:
        async for _signal in interrupts:
            if self._interrupted:
                os._exit(EXIT_INTERRUPTED)  # our connection closes with us, which ends the run as well
            self._interrupted = True
            nursery.start_soon(self._terminate, nursery.cancel_scope)

    async def _terminate(self, everything: trio.CancelScope) -> None:
        if self._run.run_id:
            await self._in_thread(
                self._screen.interrupt, "interrupted: ending the run; ^C again does not wait for it"
            )
            try:
                words = words_of(await self._run.terminate())
            except RunNotFound:
                self._showing.cancel()  # stuck perhaps, as nobody reads us, before the event that tells
                with trio.move_on_after(REST_SECONDS):
                    await self._followed.wait()
                words = words_of_ended(self._run.ending)
            except ClientError as error:
                words = f"interrupted: {words_for(error)}"
            await self._in_thread(self._screen.fail, words)
            with trio.move_on_after(REST_SECONDS):
                await self._followed.wait()
        else:
            self._screen.interrupt("interrupted: the run had not started")
        everything.cancel()

    async def _follow(self) -> None:
        try:
            async with self._run as run:
                async for event in run:
                    if not self._interrupted:
                        with trio.CancelScope() as self._showing:
                            await self._in_thread(self._show, event)
        except OSError as error:
            if not is_broken_pipe(error):
                raise
            silence_stdout()  # as in `q9gent run … | head -1`: the run was ended
            self._status = EXIT_FAILURE
            await self._tell_notes(error)
        except ClientError as error:
            self._status = status_of_error(error)
            if not self._interrupted:
                await self._in_thread(self._screen.fail, words_for(error))
                await self._tell_notes(error)
        else:
            if not self._interrupted:
                self._status = self._outcome()

    async def _tell_notes(self, error: Exception) -> None:
        """Tell what the end of the run left to be told (see ``report_cleanup``)."""
        for note in getattr(error, "__notes__", ()):
            await self._in_thread(self._screen.fail, note)

    async def _in_thread(self, show: Any, what: Any) -> None:  # noqa: ANN401 (one of the screen's)
        """Write without holding ^C up: whoever reads us may be slow, or stopped."""
        await trio.to_thread.run_sync(show, what, abandon_on_cancel=True)

    def _show(self, event: Event) -> None:
        if isinstance(event, Output):
            pieces = self._transcript.take(event.data, event.json())
        if self._as_json:
            self._screen.write_json(msgspec.json.encode(event).decode())
        elif isinstance(event, Output):
            self._screen.show(pieces)
        elif isinstance(event, SessionCreated):
            self._screen.note(f"session {event.session_id}")
        else:
            self._screen.end_line()
            if event.killed and not self._interrupted:
                self._screen.note(f"killed: {_processes(event.killed)} that the run left behind")

    def _outcome(self) -> int:
        ending = self._run.ending
        if isinstance(ending, Failed):
            self._screen.fail(f"{ending.error} (code: {ending.code})")
            return EXIT_FAILURE
        if self._transcript.result is None:
            self._screen.fail("the run completed without a result: the answer may be incomplete")
            return EXIT_FAILURE
        return EXIT_FAILURE if self._transcript.result.get("is_error") is True else 0


def words_of(told: Termination) -> str:
    """Return what an interrupted run's end took."""
    return f"interrupted: every process of the run is dead, {_cost(told.killed, told.code)}"


def words_of_ended(ending: Completed | Failed | None) -> str:
    """Return what there is to say of an interrupted run that the server lists no more.

    Args:
        ending: Its terminal event; ``None`` if that could not be read in time.
    """
    words = "interrupted: the run had ended already"
    if ending is None:
        return f"{words}; whether all of its processes are dead is not known"
    code = ending.code if isinstance(ending, Failed) else "completed"
    if isinstance(ending, Failed) and survivors_of(ending):
        return f"{words}: {ending.error} (code: {code})"
    return f"{words}: every process of it is dead, {_cost(ending.killed, code)}"


def _cost(killed: int | None, code: str) -> str:
    return f"{killed or 'none'} had to be killed (code: {code})"


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"
