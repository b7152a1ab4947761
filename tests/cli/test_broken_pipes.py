"""Commands whose output nobody reads any more end without a traceback, on each system."""

from __future__ import annotations

import errno
import sys
from typing import TYPE_CHECKING, Any

import pytest

from q9gent.cli import outcome

if TYPE_CHECKING:
    from server_process import LiveServer

SECONDS = 60.0

WINDOWS = """
import errno, io, sys
from q9gent.cli import main, outcome

class Pipe(io.TextIOWrapper):
    def write(self, text):
        raise OSError(errno.EINVAL, "Invalid argument")

outcome.BROKEN_PIPE = {errno.EPIPE, errno.EINVAL}
sys.stdout = Pipe(sys.stdout.buffer)
main()
"""
"""A command whose standard output fails as a pipe of Windows does."""


@pytest.mark.parametrize("arguments", [["run", "-q", "x"], ["run", "--json", "x"], ["ps"], ["kill", "--all"]])
def test_the_word_of_windows_for_a_broken_pipe_is_known(
    shared: LiveServer, start: Any, arguments: list[str]
) -> None:
    """The same end as with EPIPE; `kill` writes from a task of its own."""
    with shared.started("!wait"):
        process = start(*arguments, program=[sys.executable, "-c", WINDOWS])
        assert process.wait(SECONDS) == 1
        assert (process.stdout.read(), process.stderr.read()) == ("", "")


@pytest.mark.parametrize("command", ["ps", "sessions"])
def test_a_reader_that_does_not_wait_for_a_list(start: Any, command: str) -> None:
    """As in `q9gent ps | true`: it is learned while the command runs, and not at its exit."""
    process = start(command)
    process.stdout.close()
    assert process.wait(SECONDS) == 1
    assert process.stderr.read() == ""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EINVAL, "Invalid argument", "a:b"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        ValueError("no OSError"),
    ],
)
def test_another_error_is_not_a_broken_pipe(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """It is not swallowed, also beside one."""
    monkeypatch.setattr(outcome, "BROKEN_PIPE", {errno.EPIPE, errno.EINVAL})
    monkeypatch.setattr(outcome, "silence_stdout", lambda: None)

    def fail(with_error: Exception) -> int:
        raise with_error

    for raised in error, ExceptionGroup("", [BrokenPipeError(errno.EPIPE, "Broken pipe"), error]):
        with pytest.raises((type(error), ExceptionGroup)) as caught:
            outcome.finish(lambda raised=raised: fail(raised))
        group = (
            caught.value if isinstance(caught.value, ExceptionGroup) else ExceptionGroup("", [caught.value])
        )
        assert group.subgroup(type(error)) is not None
