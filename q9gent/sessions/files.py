"""Sessions as files: ``{session_dir}/{session_id}.json``, read on demand, never cached.

Each is written to a temporary file and renamed, so a reader, a crash or a full disk never sees half of
one; mode 0600. A file that is not a session (half-written by something else, foreign, renamed) is
passed over.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
import threading
import time
from typing import TYPE_CHECKING, TypeVar

import msgspec

from q9gent.errors import SessionStoreFailed
from q9gent.sessions import Session
from q9gent.threads import wait_for_disk
from q9gent.wire.requests import UUID_PATTERN

if TYPE_CHECKING:
    from collections.abc import Callable

SUFFIX = ".json"

SESSION_BYTES = 32 * 1024 * 1024
"""Longer than any label that fits into a request's body; a file that is longer is no session."""

PAUSES_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if sys.platform == "win32" else ()
"""Between tries to put a file in the place of one that somebody has open, which Windows refuses: a virus
scanner or an indexer is done in milliseconds. Our own threads wait for each other instead."""

_T = TypeVar("_T")


class FileSessionStore:
    """The default store.

    Args:
        folder: Made when first needed.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = threading.RLock()

    async def save(self, session: Session) -> None:
        """See ``SessionStore.save``."""
        given_up = threading.Event()
        try:
            await self._in_thread(lambda: self._write(session, given_up))
        except BaseException:
            given_up.set()  # should the disk come back, the session must not
            raise

    async def load(self, session_id: str) -> Session | None:
        """See ``SessionStore.load``."""
        return await self._in_thread(lambda: self._read(session_id))

    async def touch(self, session_id: str) -> None:
        """See ``SessionStore.touch``."""

        def work() -> None:
            with self._lock:  # what is deleted meanwhile must not come back
                session = self._read(session_id)
                if session is not None:
                    # A clock that was set back must not make a session older than it is.
                    now = max(int(time.time()), session.last_used)
                    self._write(msgspec.structs.replace(session, last_used=now))

        await self._in_thread(work)

    async def list_all(self) -> list[Session]:
        """See ``SessionStore.list_all``."""

        def work() -> list[Session]:
            try:
                names = os.listdir(self._folder)
            except FileNotFoundError:
                return []
            found = []
            for name in names:
                session_id = name.removesuffix(SUFFIX)
                if name.endswith(SUFFIX) and UUID_PATTERN.match(session_id):
                    with contextlib.suppress(OSError):  # removed meanwhile, or not ours to read
                        session = self._read(session_id)
                        if session is not None:
                            found.append(session)
            return sorted(found, key=lambda session: (session.created_at, session.session_id))

        return await self._in_thread(work)

    async def delete(self, session_id: str) -> bool:
        """See ``SessionStore.delete``."""

        def work() -> bool:
            try:
                with self._lock:
                    _insist(lambda: os.unlink(self._path(session_id)))
            except FileNotFoundError:
                return False
            return True

        return await self._in_thread(work)

    async def check(self) -> None:
        """See ``SessionStore.check``."""

        def work() -> None:
            path = self._temporary_path()
            self._create(path, b"")
            os.unlink(path)

        await self._in_thread(work)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        try:
            return await wait_for_disk(work)
        except OSError as error:
            raise SessionStoreFailed(f"{error.strerror or error} ({self._folder})") from error

    def _path(self, session_id: str) -> str:
        if not UUID_PATTERN.match(session_id):  # never a path of the caller's making
            raise ValueError(f"not a session id: {session_id!r}")
        return os.path.join(self._folder, session_id + SUFFIX)

    def _temporary_path(self) -> str:
        return os.path.join(self._folder, f".{secrets.token_hex(8)}.tmp")

    def _read(self, session_id: str) -> Session | None:
        with self._lock:
            content = self._read_bytes(session_id)
        if content is None:
            return None
        try:
            session = msgspec.json.decode(content, type=Session)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        return session if session.session_id == session_id else None

    def _read_bytes(self, session_id: str) -> bytes | None:
        try:
            # Opened so that a named pipe cannot hold us up.
            flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
            fd = os.open(self._path(session_id), flags)
        except FileNotFoundError:
            return None
        except PermissionError:
            if os.path.isdir(self._path(session_id)):  # which Windows does not open
                return None
            raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):  # a folder, a pipe; open() below raises for a folder
            os.close(fd)
            return None
        with open(fd, "rb") as file:
            return file.read(SESSION_BYTES)

    def _write(self, session: Session, given_up: threading.Event | None = None) -> None:
        path = self._path(session.session_id)
        temporary_path = self._temporary_path()
        try:
            self._create(temporary_path, msgspec.json.encode(session))
            with self._lock:
                if given_up is not None and given_up.is_set():
                    os.unlink(temporary_path)
                else:
                    _insist(lambda: os.replace(temporary_path, path))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary_path)
            raise

    def _create(self, path: str, content: bytes) -> None:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with open(os.open(path, flags, 0o600), "wb") as file:
            file.write(content)


def _insist(work: Callable[[], None]) -> None:
    """Try again for a moment where somebody else has the file open."""
    for pause_seconds in PAUSES_SECONDS:
        try:
            return work()
        except PermissionError:
            time.sleep(pause_seconds)
    return work()
