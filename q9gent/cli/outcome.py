"""Exit statuses of the commands that ask a server, and the words for what went wrong."""

from __future__ import annotations

import errno
import sys
from typing import TYPE_CHECKING

from q9gent.cli.terminal import one_line, silence_stdout
from q9gent.client import ClientError, ServerUnreachable, StreamBroken
from q9gent.client._protocol import server_url

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["finish", "is_broken_pipe", "server_url", "status_of_error", "words_for"]

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_INTERRUPTED = 130
"""128 and SIGINT's number, as shells count."""

BROKEN_PIPE = {errno.EPIPE, errno.EINVAL} if sys.platform == "win32" else {errno.EPIPE}
"""What a write fails with if nobody reads any more; of a pipe Windows' C runtime says EINVAL as well."""


def status_of_error(error: ClientError) -> int:
    """Return the exit status for an error of the client's."""
    return EXIT_UNREACHABLE if isinstance(error, ServerUnreachable | StreamBroken) else EXIT_FAILURE


def words_for(error: ClientError) -> str:
    """Return an error in words, with its remedy where there is one."""
    if isinstance(error, ServerUnreachable):
        return f"{error} (start one with `q9gent`, or name it with --url)"
    return str(error)


def is_broken_pipe(error: BaseException) -> bool:
    """Tell whether a write failed as nobody reads any more what it writes."""
    if not isinstance(error, OSError) or error.errno not in BROKEN_PIPE:
        return False
    # Not a socket's or another call's of Windows, nor that of a file with a name.
    return getattr(error, "winerror", None) is None and error.filename is None


def finish(work: Callable[[], int]) -> int:
    """Do a command's work, and return its exit status, whatever happens."""
    try:
        status = work()
    except* ClientError as group:
        error = group.exceptions[0]
        assert isinstance(error, ClientError)
        sys.stderr.write(f"q9gent: {one_line(words_for(error))}\n")
        status = status_of_error(error)
    except* OSError as group:
        if group.split(is_broken_pipe)[1] is not None:
            raise
        silence_stdout()  # as in `q9gent ps | head -1`
        status = EXIT_FAILURE
    except* KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    return status
