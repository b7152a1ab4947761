"""Sessions in files: whole or not there, and nothing else in the folder disturbs."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest
import trio

from q9gent.errors import SessionStoreFailed
from q9gent.sessions import Session
from q9gent.sessions import files as files_module
from q9gent.sessions.files import FileSessionStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ID = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"


def call(method: Callable[..., Any], *args: object) -> Any:
    async def main() -> Any:
        with trio.fail_after(10):
            return await method(*args)

    return trio.run(main)


def session(session_id: str = ID, **changes: Any) -> Session:
    return Session(
        **{"session_id": session_id, "agent_type": "a", "created_at": 5, "last_used": 6, **changes}
    )


def test_a_session_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    """And its file holds those four fields."""
    store = FileSessionStore(str(tmp_path / "new" / "folder"))
    call(store.save, session())
    assert call(store.load, ID) == session()
    with open(tmp_path / "new" / "folder" / f"{ID}.json") as file:
        assert json.load(file) == {"session_id": ID, "agent_type": "a", "created_at": 5, "last_used": 6}


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_only_the_owner_may_read_a_session(tmp_path: Path) -> None:
    """Whatever the umask."""
    previous = os.umask(0)
    try:
        call(FileSessionStore(str(tmp_path)).save, session())
    finally:
        os.umask(previous)
    assert stat.S_IMODE(os.stat(tmp_path / f"{ID}.json").st_mode) == 0o600


def test_what_is_no_session_is_passed_over(tmp_path: Path) -> None:
    """Half-written, foreign, renamed, huge, a folder, a temporary file."""
    store = FileSessionStore(str(tmp_path))
    call(store.save, session())
    good = (tmp_path / f"{ID}.json").read_bytes()
    (tmp_path / f"{OTHER}.json").write_bytes(good)  # says another id
    (tmp_path / "33333333-3333-4333-8333-333333333333.json").write_bytes(good[:-5])
    (tmp_path / "44444444-4444-4444-8444-444444444444.json").mkdir()
    (tmp_path / "55555555-5555-4555-8555-555555555555.json").write_bytes(b"\xff" * 70_000)
    (tmp_path / "66666666-6666-4666-8666-666666666666.json").write_bytes(b"[" * 60_000)
    (tmp_path / "notes.json").write_bytes(good)
    (tmp_path / ".half.tmp").write_bytes(good)
    assert call(store.list_all) == [session()]
    assert call(store.load, OTHER) is None


def test_no_folder_is_no_sessions(tmp_path: Path) -> None:
    """It is made when first needed."""
    store = FileSessionStore(str(tmp_path / "missing"))
    assert call(store.list_all) == []
    assert call(store.load, ID) is None
    assert call(store.delete, ID) is False


def test_sessions_are_listed_by_age(tmp_path: Path) -> None:
    """The oldest first."""
    store = FileSessionStore(str(tmp_path))
    call(store.save, session(ID, created_at=9))
    call(store.save, session(OTHER, created_at=3))
    assert [found.session_id for found in call(store.list_all)] == [OTHER, ID]


def test_a_touch_sets_the_last_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To now; of an unknown session nothing happens."""
    store = FileSessionStore(str(tmp_path))
    call(store.save, session())
    monkeypatch.setattr(files_module.time, "time", lambda: 1234.9)
    call(store.touch, ID)
    call(store.touch, OTHER)
    assert call(store.list_all) == [session(last_used=1234)]


def test_a_clock_that_was_set_back_makes_no_session_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last use never decreases."""
    store = FileSessionStore(str(tmp_path))
    call(store.save, session(last_used=9_999_999_999))
    call(store.touch, ID)
    assert call(store.load, ID).last_used == 9_999_999_999


def test_a_failed_write_leaves_the_old_session_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a crash between writing and renaming would."""
    store = FileSessionStore(str(tmp_path))
    call(store.save, session())

    def fail(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files_module.os, "replace", fail)
    with pytest.raises(SessionStoreFailed, match="No space left on device"):
        call(store.save, session(last_used=7))
    assert os.listdir(tmp_path) == [f"{ID}.json"]
    assert call(store.load, ID) == session()


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    """By every method, with the reason and the folder."""
    (tmp_path / "file").write_text("")
    store = FileSessionStore(str(tmp_path / "file"))
    for method, args in [(store.save, (session(),)), (store.check, ()), (store.list_all, ())]:
        with pytest.raises(SessionStoreFailed, match="file"):
            call(method, *args)


@pytest.mark.parametrize(
    "name", ["../x", "..", "", "a/b", "AAAAAAAA-1111-4111-8111-111111111111", ID + "/..", ID + "\0"]
)
def test_a_name_that_is_no_id_reaches_no_file(tmp_path: Path, name: str) -> None:
    """The routes check it before; the store does not rely on that."""
    with pytest.raises(ValueError, match="not a session id"):
        call(FileSessionStore(str(tmp_path)).load, name)


def test_many_touches_at_once_leave_a_whole_session(tmp_path: Path) -> None:
    """Readers meanwhile never see half of one."""
    store = FileSessionStore(str(tmp_path))

    async def main() -> None:
        await store.save(session())
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for _round in range(50):
                    nursery.start_soon(store.touch, ID)
                for _round in range(50):
                    assert await store.load(ID) is not None

    trio.run(main)
    assert os.listdir(tmp_path) == [f"{ID}.json"]


def test_a_deleted_session_is_gone(tmp_path: Path) -> None:
    """And only once."""
    store = FileSessionStore(str(tmp_path))
    call(store.save, session())
    assert call(store.delete, ID) is True
    assert call(store.delete, ID) is False
    assert call(store.list_all) == []
