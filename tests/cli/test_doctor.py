"""`q9gent doctor`: each check finds what is wrong, and says what helps."""

from __future__ import annotations

import importlib
import os
import resource
import socket
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

import q9gent as package
from q9gent.cli import limits
from q9gent.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from server_process import LiveServer

doctor = importlib.import_module("q9gent.cli.doctor")  # the command of this name hides the module

SECONDS = 60.0


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `q9gent … doctor` in a folder of its own."""
    return subprocess.run(
        [sys.executable, "-m", "q9gent", *arguments, "doctor"],
        cwd=folder,
        env={**os.environ, "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )


def test_all_is_told_and_0(tmp_path: Path) -> None:
    """A line for each check; nothing was made on the way."""
    done = run("--simulate", "--port", "0", folder=tmp_path)
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert {state for state, *_ in lines} <= {"ok", "warn"}
    assert [subject for _, subject, _ in lines] == [
        *("q9gent", "Claude", "containment", "descriptors", "processes"),
        *("memory", "sessions", "address", "spool", "extras"),
    ]
    assert package.__version__ in done.stdout
    assert os.listdir(tmp_path) == []


def test_what_stands_in_the_way_is_1_with_its_remedy(tmp_path: Path) -> None:
    """Each failing line is followed by what helps."""
    done = run("--claude-path", "no-such-claude", "--port", "0", folder=tmp_path)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    (index,) = [number for number, line in enumerate(lines) if line.startswith("fail ")]
    assert "no-such-claude: No such file or directory" in lines[index]
    assert "npm install" in lines[index + 1]


def test_a_bad_setting_is_2(tmp_path: Path) -> None:
    """As for the server."""
    done = run("--max-runs", "0", folder=tmp_path)
    assert done.returncode == 2
    assert "--max-runs" in done.stderr


@pytest.mark.parametrize(
    ("content", "words"), [("#!/bin/sh\nexit 3\n", "status 3"), ("#!/no/such\n", "No such file or directory")]
)
def test_a_cli_that_does_not_run_fails(tmp_path: Path, content: str, words: str) -> None:
    """It is there, and no use."""
    path = tmp_path / "claude"
    path.write_text(content)
    path.chmod(0o755)
    found = doctor.agent(Settings(claude_path=str(path)))
    assert found.state == "fail"
    assert words in found.text


def test_a_cli_is_told_with_its_version(tmp_path: Path) -> None:
    """And where it was found; it is not given our variables."""
    path = tmp_path / "claude"
    path.write_text('#!/bin/sh\necho "9.8.7${Q9GENT_LOG}"\n')
    path.chmod(0o755)
    found = doctor.agent(Settings(claude_path=str(path)))
    assert (found.state, found.text) == ("ok", f"{path}: 9.8.7")


def test_containment_is_told_with_what_it_promises() -> None:
    """The one that a server would use."""
    found = doctor.containment(Settings())
    assert found.state == "ok"
    assert found.text.startswith("linux: every process")


def test_a_fallback_is_a_warning_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run starts may escape."""

    def unavailable(strategy: str) -> object:
        if strategy == "linux":
            raise doctor.ContainmentUnavailable("no fork server here")
        return original(strategy)

    containment = sys.modules["q9gent.containment"]
    original = containment.open_named
    monkeypatch.setattr(containment, "open_named", unavailable)
    found = doctor.containment(Settings())
    assert (found.state, found.text.partition(",")[0]) == ("warn", "posix")
    assert "no fork server here" in found.text


def test_a_containment_of_another_system_fails() -> None:
    """Where it was named."""
    assert doctor.containment(Settings(containment="windows")).state == "fail"


def test_too_few_descriptors_are_a_warning() -> None:
    """With the numbers to set."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = limits.descriptors(Settings(max_runs=100_000))
    if hard >= 400_000:
        assert found.state == "ok"
    else:
        assert found.state == "warn"
        assert "LimitNOFILE=400000" in found.remedy
    assert limits.descriptors(Settings(max_runs=1)).state == "ok"


def test_a_control_group_that_allows_few_processes_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds for root too."""
    monkeypatch.setattr(limits, "_cgroup_limit", lambda: 100)
    found = limits.processes(Settings(max_runs=51))
    assert (found.state, found.remedy) == ("warn", "raise it, or --max-runs 50")
    assert limits.processes(Settings(max_runs=50)).state == "ok"


@pytest.mark.parametrize(
    ("free", "runs", "state", "remedy"),
    [
        (10 * limits.RUN_BYTES, 10, "ok", ""),
        (10 * limits.RUN_BYTES, 11, "ok", "--max-runs 10 keeps within it"),
        (limits.RUN_BYTES - 1, 1, "warn", "--max-runs 1 keeps within it"),
    ],
)
def test_memory_is_told_in_runs(
    monkeypatch: pytest.MonkeyPatch, free: int, runs: int, state: str, remedy: str
) -> None:
    """As many as fit need no remedy; where none fits, it is a warning."""
    monkeypatch.setattr(limits.psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    found = limits.memory(Settings(max_runs=runs))
    assert (found.state, found.remedy) == (state, remedy)


def test_a_session_folder_that_cannot_be_made_fails(tmp_path: Path) -> None:
    """A file stands in its way."""
    (tmp_path / "file").write_text("")
    for path in tmp_path / "file", tmp_path / "file" / "sessions":
        found = doctor.session_folder(Settings(session_dir=str(path)))
        assert found.state == "fail"
        assert "--session-dir" in found.remedy


def test_a_session_folder_is_left_as_it_is(tmp_path: Path) -> None:
    """One that is there is tried, one that is not is not made."""
    assert doctor.session_folder(Settings(session_dir=str(tmp_path))).state == "ok"
    assert doctor.session_folder(Settings(session_dir=str(tmp_path / "a" / "b"))).state == "ok"
    assert os.listdir(tmp_path) == []


def test_a_taken_port_fails() -> None:
    """Somebody else has it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = Settings(port=taken.getsockname()[1])
        found = doctor.address(settings)
    assert found.state == "fail"
    assert "Address already in use" in found.text


def test_a_port_that_q9gent_has_is_a_warning(
    start_server: Callable[..., LiveServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is broken: it runs already."""
    monkeypatch.setattr(doctor, "ASK_SECONDS", 30.0)  # a busy system can hold the server for seconds
    server = start_server("--simulate")
    found = doctor.address(Settings(port=server.port))
    assert found.state == "warn"
    assert f"q9gent {package.__version__} listens on 127.0.0.1:{server.port} already" in found.text


def test_a_hypercorn_file_is_read_and_not_bound(tmp_path: Path) -> None:
    """Binding its Unix socket would take it away from a server."""
    config = tmp_path / "hypercorn.toml"
    config.write_text(f'bind = ["unix:{tmp_path}/socket"]\n')
    assert doctor.address(Settings(hypercorn_config=str(config))).state == "ok"
    assert not (tmp_path / "socket").exists()
    config.write_text("= nonsense")
    assert doctor.address(Settings(hypercorn_config=str(config))).state == "fail"


def test_a_spool_folder_that_is_memory_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is too small; one that is not there fails."""
    settings = Settings(spool_dir=str(tmp_path), spool_bytes=1)
    monkeypatch.setattr(doctor, "_file_system", lambda _folder: "ext4")
    assert doctor.spool(settings).state == "ok"
    monkeypatch.setattr(doctor, "_file_system", lambda _folder: "tmpfs")
    assert doctor.spool(settings).state == "warn"
    monkeypatch.setattr(doctor, "_file_system", lambda _folder: "ext4")
    assert doctor.spool(Settings(spool_dir=str(tmp_path), spool_bytes=1 << 60)).state == "warn"
    assert doctor.spool(Settings(spool_dir=str(tmp_path / "missing"))).state == "fail"


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="there is no tmpfs to look at")
def test_a_tmpfs_is_known() -> None:
    """By the mount that a folder lies in, and not by one whose name begins alike."""
    assert doctor._file_system("/dev/shm") == "tmpfs"
    assert doctor._file_system("/proc/self") == "proc"


def test_extras_are_the_packages_own() -> None:
    """Each is told as installed or not."""
    found = doctor.extras(Settings())
    assert found is not None
    assert "client installed" in found.text
    assert "cli installed" in found.text
