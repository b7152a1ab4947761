"""What a containment strategy promises: a process tree that surely dies.

The run (``q9gent.run``) knows only these names. A strategy is one module beside this one: ``linux``
(fork server and subreapers), ``posix`` (process group and descendants), ``windows`` (Job Objects).

The life of a tree is one ``async with``::

    async with containment.open_tree(launch, grace_seconds=2) as tree:   # the process runs
        status = await tree.wait_exited()                                # or cancelled, or raised
        death = await tree.end(grace_seconds=2)                          # what its end took

Leaving the block ends the tree, whatever the reason for leaving: the block is the ownership, and
there is no other way to get a process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager


class Launch(msgspec.Struct, frozen=True):
    """What to start.

    Attributes:
        argv: The program (an absolute path, or one relative to the working directory) and its
            arguments. Never passed through a shell.
        stdin: Bytes for standard input, which is then closed; ``None`` gives the null device.
    """

    argv: tuple[str, ...]
    stdin: bytes | None = None


class ExitStatus(msgspec.Struct, frozen=True):
    """How the first process of a tree, its leader, ended: exactly one of the two is set.

    Attributes:
        code: Its exit status, 0 to 255 (32 bits on Windows).
        signal: The signal that ended it, as a number.
    """

    code: int | None = None
    signal: int | None = None


class Death(msgspec.Struct, frozen=True):
    """What the end of a tree took.

    Attributes:
        killed: How many processes had to be killed (SIGKILL, TerminateJobObject).
        survivors: Pids that could not be killed in time. Empty means that the strategy has seen
            every process of the tree dead; the docs say how sure each strategy can be.
    """

    killed: int = 0
    survivors: tuple[int, ...] = ()


class SpawnError(Exception):
    """The process could not be started; nothing is left of the attempt.

    Attributes:
        errno: The system's error number, or ``None`` where there was none.
        reason: The reason in words, without the path of the program.
    """

    def __init__(self, reason: str, errno: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.errno = errno


class ContainmentUnavailable(Exception):
    """The strategy does not work on this system."""


class ContainmentLost(Exception):
    """The means of containment were destroyed from outside: nobody can say what still lives.

    Neither "dead" nor "alive" may then be said of the tree.
    """


class ByteSource(Protocol):
    """The reading end of a pipe from the tree; closed when the tree's block is left."""

    def fileno(self) -> int | None:
        """Return a non-blocking descriptor that can be waited for and read, if it is one."""
        ...

    async def receive(self, max_bytes: int) -> bytes:
        """Wait for bytes and return at most ``max_bytes`` of them; ``b""`` means end of file.

        Cancellation: nothing is lost.
        """
        ...

    def receive_nowait(self, max_bytes: int) -> bytes:
        """Return what is there, ``b""`` if nothing is: never waits.

        What a dead tree left in its pipe is read so, as somebody outside may hold the pipe open. Not to
        be called while a ``receive`` is pending.
        """
        ...


class Tree(Protocol):
    """A running process and everything it starts."""

    @property
    def pid(self) -> int:
        """The leader's."""
        ...

    @property
    def stdout(self) -> ByteSource:
        """What the tree prints."""
        ...

    @property
    def stderr(self) -> ByteSource:
        """What the tree complains of."""
        ...

    async def wait_exited(self) -> ExitStatus:
        """Wait until the leader has exited; its descendants may still live. Cancellation: safe."""
        ...

    async def end(self, grace_seconds: float) -> Death:
        """End the tree and wait until it is dead.

        A leader that lives is asked first (SIGTERM, CTRL_BREAK) and has ``grace_seconds``; what then
        lives, or is left behind by an exited leader, is killed. Bounded: after
        ``KILL_TIMEOUT_SECONDS`` of killing it returns with the survivors' pids. Idempotent; calls may
        overlap, and one with a shorter grace shortens the earlier one's.

        Raises:
            ContainmentLost: What held the tree was destroyed, so its end cannot be seen.

        Cancellation: the wait is given up. The end of ``open_tree``'s block, if nothing sooner, completes the
        killing.
        """
        ...

    def count_processes(self) -> int:
        """Return how many processes of the tree live, as far as the strategy can see."""
        ...


class Containment(Protocol):
    """A strategy, open: made by ``q9gent.containment.open_containment``."""

    @property
    def name(self) -> str:
        """Its name, as ``--containment`` takes it."""
        ...

    @property
    def guarantee(self) -> str:
        """What it can promise, in a sentence, for the log."""
        ...

    def open_tree(self, launch: Launch, *, grace_seconds: float) -> AbstractAsyncContextManager[Tree]:
        """Start a process tree, to be ended when the block is left.

        Args:
            launch: What to start.
            grace_seconds: The time between asking and killing if the block is left while it lives.

        Raises:
            SpawnError: It could not be started.

        Cancellation: leaving the block is shielded and bounded; cancelled while starting, nothing
        is left of the attempt.
        """
        ...


KILL_TIMEOUT_SECONDS = 10.0
"""How long killing may take before the survivors are told. A process in uninterruptible sleep (a dead
network disk) can outlast any signal; ten seconds is far above the milliseconds that all others take."""
