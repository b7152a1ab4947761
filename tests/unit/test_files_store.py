"""Sessions in files: whole or not there, and nothing else in the folder disturbs."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from q9gent.errors import InvalidRequest, SessionStoreFailed
from q9gent.sessions import Session
from q9gent.sessions import files as files_module
from q9gent.sessions.files import FileSessionStore
from q9gent.wire.requests import SpawnRequest, decode_request

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ID = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"


def call(method: Callable[..., Any], *args: object) -> Any:
    async def main() -> Any:
        with trio.fail_after(60):
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
    for session_id in (
        OTHER,
        *(f"{digit * 8}-{digit * 4}-4{digit * 3}-8{digit * 3}-{digit * 12}" for digit in "3456"),
    ):
        assert call(store.load, session_id) is None


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


def test_a_clock_that_was_set_back_makes_no_session_older(tmp_path: Path) -> None:
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
        with trio.fail_after(90):  # a thread each, which take their time under Wine
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


@settings(max_examples=40)
@given(
    label=st.text(max_size=40),
    created_at=st.integers(0, 2**40),
    last_used=st.integers(0, 2**40),
)
def test_any_session_comes_back_as_it_was_saved(
    tmp_path_factory: pytest.TempPathFactory, label: str, created_at: int, last_used: int
) -> None:
    """Whatever the caller's label is made of."""
    store = FileSessionStore(str(tmp_path_factory.getbasetemp() / "any"))
    saved = session(agent_type=label, created_at=created_at, last_used=last_used)
    call(store.save, saved)
    assert call(store.load, ID) == saved


@pytest.mark.parametrize("length", [100, 5_000, 20_000, 100_000])
@pytest.mark.parametrize("character", ["a", "\x01"])
def test_every_label_that_a_request_may_have_can_be_stored(
    tmp_path: Path, character: str, length: int
) -> None:
    """A session that was announced is found again: the longest label fits, or is refused before."""
    body = json.dumps({"agent_type": character * length, "prompt": "p"}).encode()
    try:
        request = decode_request(body, SpawnRequest)
    except InvalidRequest:
        if length > 100:
            return
        raise  # an ordinary label is no error
    store = FileSessionStore(str(tmp_path))
    call(store.save, session(agent_type=request.agent_type))
    assert call(store.load, ID) is not None
    assert len(call(store.list_all)) == 1


@pytest.mark.skipif(os.name != "posix", reason="links need a privilege on Windows")
@pytest.mark.parametrize("target", ["missing", f"{OTHER}.json", "/etc/hostname", "."])
def test_a_link_in_the_folder_does_not_disturb(tmp_path: Path, target: str) -> None:
    """Dangling, to itself, to a foreign file, to a folder."""
    store = FileSessionStore(str(tmp_path))
    call(store.save, session())
    (tmp_path / f"{OTHER}.json").symlink_to(target)
    assert call(store.list_all) == [session()]


@pytest.mark.skipif(os.name != "posix", reason="needs a named pipe")
def test_a_named_pipe_in_the_folder_does_not_hang_the_list(tmp_path: Path) -> None:
    """Opened like a file, it would wait for a writer: for ever, in a thread that nothing can cancel."""
    store = FileSessionStore(str(tmp_path))
    call(store.save, session())
    pipe = tmp_path / f"{OTHER}.json"
    os.mkfifo(pipe)
    try:
        assert call(store.list_all) == [session()]
    finally:
        with contextlib.suppress(OSError):  # nobody reads, as it should be
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))  # lets go a thread that does


CRASH = """
import os, sys, trio
from q9gent.sessions import Session
from q9gent.sessions.files import FileSessionStore
os.replace = lambda *_: os._exit(9)
trio.run(FileSessionStore(sys.argv[1]).save,
         Session(session_id=sys.argv[2], agent_type="new", created_at=5, last_used=7))
"""


def test_a_crash_between_writing_and_renaming_leaves_the_old_session(tmp_path: Path) -> None:
    """A real one: the process is gone in the middle of a save."""
    store = FileSessionStore(str(tmp_path))
    call(store.save, session())
    crashed = subprocess.run([sys.executable, "-c", CRASH, str(tmp_path), ID], timeout=60, check=False)
    assert crashed.returncode == 9
    assert call(store.load, ID) == session()
    assert call(store.list_all) == [session()]
    call(store.touch, ID)
    assert call(store.load, ID).last_used > 6


@pytest.mark.parametrize("failing", ["open", "replace", "makedirs"])
def test_a_folder_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """With the reason and the folder; what is there can still be read."""
    store = FileSessionStore(str(tmp_path))
    call(store.save, session())

    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(files_module.os, failing, refuse)
        for method, args in [(store.save, (session(last_used=9),)), (store.touch, (ID,))]:
            with pytest.raises(SessionStoreFailed, match="Permission denied") as caught:
                call(method, *args)
            assert str(tmp_path) in str(caught.value)
    assert call(store.load, ID) == session()
    assert os.listdir(tmp_path) == [f"{ID}.json"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions bind no administrator")
def test_a_read_only_folder_is_found_out_at_the_start(tmp_path: Path) -> None:
    """For the warning; listing works."""
    store = FileSessionStore(str(tmp_path))
    call(store.save, session())
    tmp_path.chmod(0o500)
    with pytest.raises(SessionStoreFailed, match="Permission denied"):
        call(store.check)
    assert call(store.list_all) == [session()]


def test_a_check_leaves_nothing_behind(tmp_path: Path) -> None:
    """But the folder."""
    store = FileSessionStore(str(tmp_path / "made"))
    call(store.check)
    assert os.listdir(tmp_path / "made") == []


@pytest.mark.parametrize("method", ["load", "touch", "delete"])
@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "", ID.upper().replace("1", "A"), ID + "\n"])
def test_no_method_takes_a_path(tmp_path: Path, method: str, name: str) -> None:
    """The file beside the folder is neither read, nor written, nor removed."""
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    store = FileSessionStore(str(tmp_path / "sessions"))
    with pytest.raises(ValueError, match="not a session id"):
        call(getattr(store, method), name)
    with pytest.raises(ValueError, match="not a session id"):
        call(store.save, session(name))
    assert secret.read_text() == "{}"


def test_a_cancelled_save_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    """Never half of one, and nothing beside it."""
    store = FileSessionStore(str(tmp_path))

    async def main() -> None:
        await store.save(session())
        for number in range(40):
            with trio.move_on_after(0.0005 * (number % 4)):
                await store.save(session(last_used=100 + number))
            found = await store.load(ID)
            assert found is not None
            assert found.last_used in (6, *range(100, 101 + number))

    trio.run(main)
    assert os.listdir(tmp_path) == [f"{ID}.json"]


@pytest.mark.parametrize(
    "member",
    [b'"agent_type":"\xff"', b'"other":' + b"[" * 100_000, b'"other":' + b'{"a":' * 100_000],
    ids=["no UTF-8 in a text", "nested lists", "nested objects"],
)
def test_a_file_that_the_decoder_chokes_on_does_not_disturb(tmp_path: Path, member: bytes) -> None:
    """A session as far as it goes, then what is no `MsgspecError` in the decoder."""
    store = FileSessionStore(str(tmp_path))
    call(store.save, session())
    good = (tmp_path / f"{ID}.json").read_bytes().replace(ID.encode(), OTHER.encode())
    (tmp_path / f"{OTHER}.json").write_bytes(good.removesuffix(b"}") + b"," + member + b"}")
    assert call(store.list_all) == [session()]
    assert call(store.load, OTHER) is None


def test_no_more_than_the_limit_is_read_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session at the limit is one, a longer file is none, whatever it holds."""
    store = FileSessionStore(str(tmp_path))
    call(store.save, session())
    path = tmp_path / f"{ID}.json"
    good = path.read_bytes()
    monkeypatch.setattr(files_module, "SESSION_BYTES", len(good))
    assert call(store.load, ID) == session()
    path.write_bytes(good.replace(b"{", b"{ ", 1))
    assert call(store.load, ID) is None


@pytest.mark.skipif(os.name != "posix", reason="needs a named pipe")
def test_nothing_is_read_from_a_named_pipe_that_others_use(tmp_path: Path) -> None:
    """With a writer at its other end: what it holds is theirs, and an empty one is no error."""
    store = FileSessionStore(str(tmp_path))
    call(store.save, session())
    os.mkfifo(tmp_path / f"{OTHER}.json")
    both_ends = os.open(tmp_path / f"{OTHER}.json", os.O_RDWR | os.O_NONBLOCK)
    try:
        assert call(store.list_all) == [session()]
        os.write(both_ends, b"theirs")
        assert call(store.list_all) == [session()]
        assert os.read(both_ends, 100) == b"theirs"
    finally:
        os.close(both_ends)


@pytest.mark.parametrize("method", ["touch", "delete"])
def test_a_file_that_is_open_elsewhere_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """As on Windows, where a reader keeps a file from being replaced or removed."""
    store = FileSessionStore(str(tmp_path))
    call(store.save, session())
    refusals = [PermissionError(13, "Permission denied")] * 2

    def once_free(real: Callable[..., None]) -> Callable[..., None]:
        def attempt(*args: Any) -> None:
            if refusals:
                raise refusals.pop()
            real(*args)

        return attempt

    monkeypatch.setattr(files_module, "PAUSES_SECONDS", (0, 0))
    name = {"touch": "replace", "delete": "unlink"}[method]
    monkeypatch.setattr(files_module.os, name, once_free(getattr(os, name)))
    call(getattr(store, method), ID)
    found = call(store.load, ID)
    assert found is None if method == "delete" else found.last_used > 6
    assert not refusals
