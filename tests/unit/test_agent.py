"""Where the CLI is, and what its version knows."""

from __future__ import annotations

import os
import stat
import sys
import types
from typing import TYPE_CHECKING

import psutil
import pytest
import trio

from q9gent import agent as agent_module
from q9gent.agent import SIMULATOR, AgentProgram
from q9gent.containment import open_containment
from q9gent.errors import ProcessSpawnFailed
from q9gent.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_SECONDS = 90

posix_only = pytest.mark.skipif(os.name != "posix", reason="the stand-ins are shell scripts")

PROBE_SECONDS = 30
"""What a probe that must succeed is given: its process may be held for seconds."""


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "PROBE_SECONDS", PROBE_SECONDS)


def script(path: Path, text: str) -> str:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@posix_only
def test_a_name_is_looked_for_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a shell would."""
    monkeypatch.setenv("PATH", str(tmp_path))
    path = script(tmp_path / "my-claude", "")
    assert AgentProgram(Settings(claude_path="my-claude")).find() == (path,)


@posix_only
def test_the_bundled_cli_is_the_second_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found without importing the package that carries it."""
    package = tmp_path / "site" / "claude_agent_sdk"
    (package / "_bundled").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('must not be imported')")
    bundled = script(package / "_bundled" / "claude", "")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert AgentProgram(Settings()).find() == (bundled,)
    on_path = script(tmp_path / "claude", "")
    assert AgentProgram(Settings()).find() == (on_path,)


def test_a_missing_program_is_told_as_the_system_would(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the guide's words; found again once it is there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    program = AgentProgram(Settings(claude_path="no-such-program"))
    with pytest.raises(ProcessSpawnFailed, match="Process spawn failed: No such file or directory"):
        program.find()
    if os.name == "posix":
        path = script(tmp_path / "no-such-program", "")
        assert program.find() == (path,)


def test_the_simulated_agent_needs_no_path() -> None:
    """It is started isolated, with this Python."""
    assert AgentProgram(Settings(simulate=True)).find() == (sys.executable, "-I", "-S", SIMULATOR)


@posix_only
@pytest.mark.parametrize(
    ("told", "snapshot"),
    [
        ("echo '2.1.330 (Claude Code)'", True),
        ("echo '2.1.257 (Claude Code)'", True),
        ("echo '2.1.252 (Claude Code)'", False),
        ("echo '3.0.0'", True),
        ("echo nonsense", False),
        ("exit 1", False),
        ("echo 2.1.330; sleep 600 & exit 0", True),
    ],
)
def test_the_version_tells_what_the_cli_knows(tmp_path: Path, told: str, snapshot: bool) -> None:
    """An unknown version is taken for an old one: a new option would stop it from starting."""
    program = AgentProgram(Settings(claude_path=script(tmp_path / "claude", told)))

    async def main() -> bool:
        with trio.fail_after(DEADLINE_SECONDS):
            async with open_containment() as containment:
                return (await program.features(containment)).system_prompt_snapshot

    assert trio.run(main) is snapshot


@posix_only
def test_the_version_is_asked_for_once_until_the_file_changes(tmp_path: Path) -> None:
    """By any number of requests at once."""
    asked = tmp_path / "asked"
    path = script(tmp_path / "claude", f"echo x >> {asked}; echo 2.1.330")
    program = AgentProgram(Settings(claude_path=path))

    async def main() -> None:
        with trio.fail_after(DEADLINE_SECONDS):
            async with open_containment() as containment:
                async with trio.open_nursery() as nursery:
                    for _request in range(5):
                        nursery.start_soon(program.features, containment)
                assert asked.read_text() == "x\n"
                script(tmp_path / "claude", f"echo x >> {asked}; echo 2.1.100 # older")
                assert not (await program.features(containment)).system_prompt_snapshot
                assert asked.read_text() == "x\nx\n"

    trio.run(main)


@posix_only
def test_a_cli_that_does_not_answer_is_taken_for_an_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a bounded time, and nothing of the attempt is left."""
    monkeypatch.setattr(agent_module, "PROBE_SECONDS", 0.2)
    program = AgentProgram(Settings(claude_path=script(tmp_path / "claude", "exec sleep 600")))

    async def main() -> None:
        with trio.fail_after(DEADLINE_SECONDS):
            async with open_containment() as containment:
                assert not (await program.features(containment)).system_prompt_snapshot

    trio.run(main)


@posix_only
def test_a_bare_name_is_not_looked_for_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository that carries a program called `claude` must not become the agent."""
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setitem(sys.modules, "claude_agent_sdk", None)
    monkeypatch.chdir(tmp_path)
    script(tmp_path / "claude", "echo planted")
    with pytest.raises(ProcessSpawnFailed):
        AgentProgram(Settings()).find()
    assert AgentProgram(Settings(claude_path="./claude")).find() == ("./claude",)


@posix_only
def test_only_the_default_name_is_looked_for_in_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that was named and is missing must not silently become another program."""
    package = tmp_path / "site" / "claude_agent_sdk"
    (package / "_bundled").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    script(package / "_bundled" / "claude", "")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("/no/such/claude", "./claude", "claude2"):
        with pytest.raises(ProcessSpawnFailed):
            AgentProgram(Settings(claude_path=name)).find()


def test_a_bundle_without_the_program_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's source distribution carries none."""
    package = tmp_path / "site" / "claude_agent_sdk"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProcessSpawnFailed):
        AgentProgram(Settings()).find()


@posix_only
def test_a_program_is_looked_for_once_until_it_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that cannot be started has it looked for again, so that a moved CLI is found."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        script(folder / "my-claude", "")
    monkeypatch.setenv("PATH", f"{first}{os.pathsep}{second}")
    program = AgentProgram(Settings(claude_path="my-claude"))
    assert program.find() == (str(first / "my-claude"),)
    (first / "my-claude").unlink()
    assert program.find() == (str(first / "my-claude"),)
    program.forget()
    assert program.find() == (str(second / "my-claude"),)


@posix_only
def test_what_is_there_and_cannot_be_executed_is_left_to_the_system_to_refuse(tmp_path: Path) -> None:
    """`Permission denied` says more than `No such file`."""
    path = tmp_path / "claude"
    path.write_text("")
    assert AgentProgram(Settings(claude_path=str(path))).find() == (str(path),)


@posix_only
def test_a_probe_that_failed_is_no_answer_to_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One slow moment must not take the CLI for an old one until its file changes."""
    monkeypatch.setattr(agent_module, "PROBE_SECONDS", 0.5)
    busy = tmp_path / "busy"
    busy.touch()
    path = script(tmp_path / "claude", f"if [ -e {busy} ]; then exec sleep 600; fi; echo 2.1.330")
    program = AgentProgram(Settings(claude_path=path))

    async def main() -> None:
        with trio.fail_after(DEADLINE_SECONDS):
            async with open_containment() as containment:
                assert not (await program.features(containment)).system_prompt_snapshot
                busy.unlink()
                monkeypatch.setattr(agent_module, "PROBE_SECONDS", PROBE_SECONDS)
                assert (await program.features(containment)).system_prompt_snapshot

    trio.run(main)


@posix_only
def test_a_request_that_is_cancelled_while_it_probes_leaves_the_next_one_its_answer(tmp_path: Path) -> None:
    """The probe dies with the request, and is no answer."""
    asked, busy = tmp_path / "asked", tmp_path / "busy"
    busy.touch()
    path = script(
        tmp_path / "claude", f"echo $$ > {asked}; if [ -e {busy} ]; then exec sleep 600; fi; echo 2.1.330"
    )
    program = AgentProgram(Settings(claude_path=path))

    async def main() -> None:
        with trio.fail_after(DEADLINE_SECONDS):
            async with open_containment() as containment:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(program.features, containment)
                    while not (asked.exists() and asked.read_text().endswith("\n")):  # noqa: ASYNC110 (a file)
                        await trio.sleep(0.005)
                    agent = psutil.Process(int(asked.read_text()))
                    nursery.cancel_scope.cancel()
                assert not agent.is_running()  # nor a zombie; who has its pid now is another
                busy.unlink()
                assert (await program.features(containment)).system_prompt_snapshot

    trio.run(main)


@posix_only
def test_a_cli_that_cannot_be_started_is_taken_for_an_old_one(tmp_path: Path) -> None:
    """The run itself will say why."""
    path = tmp_path / "claude"
    path.write_text("")
    program = AgentProgram(Settings(claude_path=str(path)))

    async def main() -> None:
        with trio.fail_after(DEADLINE_SECONDS):
            async with open_containment() as containment:
                assert not (await program.features(containment)).system_prompt_snapshot
                script(path, "echo 2.1.330")
                assert (await program.features(containment)).system_prompt_snapshot

    trio.run(main)


def test_a_package_without_a_specification_is_no_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a stand-in for the real one may be, in somebody's tests."""
    monkeypatch.setitem(sys.modules, "claude_agent_sdk", types.ModuleType("claude_agent_sdk"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProcessSpawnFailed):
        AgentProgram(Settings()).find()
