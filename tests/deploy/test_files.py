"""What deploy/ promises in its comments and in the how-tos is what its files say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from process_scan import wait_for

from q9gent.cli import cli
from q9gent.cli.options import settings_from_environment
from q9gent.settings import Settings

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
STATE = "/var/lib/q9gent"
AGENT_MIB = 314
"""What the CLI takes (docs/how-to/limits-and-sizing.md)."""


def text_of(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8")


def kubernetes() -> dict[str, dict[str, Any]]:
    """The manifests by their kind."""
    return {one["kind"]: one for one in yaml.safe_load_all(text_of("kubernetes.yaml"))}


def pod() -> dict[str, Any]:
    return dict(kubernetes()["Deployment"]["spec"]["template"]["spec"])


def container() -> dict[str, Any]:
    (found,) = pod()["containers"]
    return dict(found)


def service() -> dict[str, Any]:
    return dict(yaml.safe_load(text_of("compose.yaml"))["services"]["q9gent"])


def mebibytes(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)\s*([GM])i?b?", text, re.IGNORECASE).groups()  # type: ignore[union-attr]
    return int(number) * (1024 if unit.upper() == "G" else 1)


def unit() -> dict[str, list[str]]:
    """The lines of the unit's service section."""
    section = text_of("q9gent.service").partition("[Service]\n")[2].partition("[Install]")[0]
    found: dict[str, list[str]] = {}
    for line in section.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def dockerfile() -> dict[str, list[str]]:
    """The instructions of the last stage, by name."""
    joined = re.sub(r"\\\n\s*", "", text_of("Dockerfile"))
    found: dict[str, list[str]] = {}
    for line in joined[joined.rindex("\nFROM ") :].splitlines():
        name, _, rest = line.partition(" ")
        if name.isupper():
            found.setdefault(name, []).append(rest)
    return found


def check_flags(arguments: list[str]) -> None:
    """Have the command line take these flags, or raise."""
    cli.make_context("q9gent", list(arguments))


# Kubernetes.


def test_there_is_one_replica_and_never_two_at_a_time() -> None:
    """A run, and the lock of a session, are known to the replica that has them."""
    spec = kubernetes()["Deployment"]["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes_ask_for_health(probe: str) -> None:
    """The one endpoint that needs no run."""
    assert container()[probe]["httpGet"] == {"path": "/health", "port": "http"}


def test_a_pod_has_time_to_stop_in_order() -> None:
    """Longer than the server takes at most, with what killing takes."""
    assert pod()["terminationGracePeriodSeconds"] >= Settings().shutdown_seconds + 10


def test_the_cluster_puts_nothing_into_the_environment() -> None:
    """No service links, which would set Q9GENT_PORT, and no token."""
    assert pod()["enableServiceLinks"] is False
    assert pod()["automountServiceAccountToken"] is False


def test_a_service_link_would_end_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why the line above is there."""
    monkeypatch.setenv("Q9GENT_PORT", "tcp://10.0.0.1:8080")
    with pytest.raises(Exception, match="not a valid integer"):
        settings_from_environment()


def test_memory_has_room_for_the_runs() -> None:
    """`--max-runs` agents fit into the limit, in the pod and in the composition."""
    arguments = container()["args"]
    limit = container()["resources"]["limits"]["memory"]
    for told, memory in (arguments, limit), (service()["command"], service()["mem_limit"]):
        check_flags(told)
        runs = int(told[told.index("--max-runs") + 1])
        assert runs * AGENT_MIB + 512 <= mebibytes(memory)


def test_a_pod_is_not_root_and_keeps_no_capability() -> None:
    """The user of the image, by number, also for the volume."""
    security = pod()["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] == security["fsGroup"] == 10001
    for one in [*pod()["containers"], *pod()["initContainers"]]:
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }


def test_ports_and_volumes_fit_together() -> None:
    """The service leads to the container's port, the claim is the one that is mounted."""
    (port,) = kubernetes()["Service"]["spec"]["ports"]
    assert port["targetPort"] == container()["ports"][0]["name"]
    assert container()["ports"][0]["containerPort"] == Settings().port
    (volume,) = pod()["volumes"]
    claim = volume["persistentVolumeClaim"]["claimName"]
    assert claim == kubernetes()["PersistentVolumeClaim"]["metadata"]["name"]
    assert container()["volumeMounts"] == [{"name": volume["name"], "mountPath": STATE}]


def test_only_labelled_pods_get_in() -> None:
    """There is no authentication."""
    policy = kubernetes()["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["ingress"][0]["from"] == [{"podSelector": {"matchLabels": {"q9gent-client": "true"}}}]


# The image, and the composition.


def test_the_entrypoint_takes_the_servers_own_flags() -> None:
    """What stands after the image's name goes to q9gent, below an init."""
    assert dockerfile()["ENTRYPOINT"] == ['["tini", "--", "q9gent"]']
    assert "CMD" not in dockerfile()


def test_the_image_is_not_roots() -> None:
    """The user's number is the one that Kubernetes is told."""
    assert dockerfile()["USER"] == ["q9gent"]
    assert "--uid 10001" in " ".join(dockerfile()["RUN"])


def test_state_is_in_one_volume() -> None:
    """Sessions, transcripts, spool and the working directory, side by side."""
    assert dockerfile()["VOLUME"] == [STATE]
    assert dockerfile()["WORKDIR"] == [f"{STATE}/work"]
    (environment,) = dockerfile()["ENV"]
    told = dict(re.findall(r"(\w+)=(\S+)", environment))
    assert told["CLAUDE_CONFIG_DIR"] == f"{STATE}/claude"
    assert told["Q9GENT_SESSION_DIR"] == f"{STATE}/sessions"
    assert told["Q9GENT_SPOOL_DIR"] == f"{STATE}/spool"
    made = re.search(r"mkdir ([a-z ]+)", " ".join(dockerfile()["RUN"]))
    assert made is not None
    assert made[1].split() == ["sessions", "claude", "work", "spool"]
    assert service()["volumes"] == [f"q9gent:{STATE}"]


def test_the_images_settings_are_settings() -> None:
    """Each variable of ours that it sets exists, and its value is taken."""
    (environment,) = dockerfile()["ENV"]
    variables = {
        name: value for name, value in re.findall(r"(\w+)=(\S+)", environment) if name.startswith("Q9GENT_")
    }
    assert variables
    with CliRunner().isolation(env=variables):
        settings = settings_from_environment()
    for name, value in variables.items():
        assert str(getattr(settings, name.removeprefix("Q9GENT_").lower())) == value


def test_the_healthcheck_asks_the_server(start_server: Any) -> None:
    """Run as it stands, against a server, and against none."""
    health = text_of("Dockerfile").partition("HEALTHCHECK")[2].partition("CMD ")[2].splitlines()[0]
    _python, *rest = yaml.safe_load(health)
    server = start_server("--simulate")

    def check(port: int) -> int:
        return subprocess.run(
            [sys.executable, *rest], env={**os.environ, "Q9GENT_PORT": str(port)}, capture_output=True, timeout=60, check=False
        ).returncode  # fmt: skip

    # Its own time-out is short: on a busy machine one answer may come too late.
    assert wait_for(lambda: check(server.port), lambda status: status == 0, 60) == 0
    assert check(1) != 0


def test_what_the_image_copies_is_there_and_sent() -> None:
    """Each source exists, and .dockerignore lets it through."""
    sources = [
        word
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text_of("Dockerfile"), re.MULTILINE)
        for word in line.split()
    ]
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert sources
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source.removeprefix('./')}" in sent


def test_the_composition_is_for_this_machine_and_can_stop() -> None:
    """Published on loopback; more time than the server needs."""
    assert service()["ports"] == ["127.0.0.1:8080:8080"]
    assert int(service()["stop_grace_period"].removesuffix("s")) > Settings().shutdown_seconds
    assert (DEPLOY / service()["build"]["context"] / service()["build"]["dockerfile"]).is_file()


# systemd.


def test_the_unit_stops_the_server_and_not_its_agents() -> None:
    """The server ends them in order; what is left is killed after more time than it needs."""
    assert unit()["KillMode"] == ["mixed"]
    assert int(unit()["TimeoutStopSec"][0]) >= Settings().shutdown_seconds + 10


def test_an_agent_out_of_memory_does_not_end_the_unit() -> None:
    """Systemd's default would stop the whole service."""
    assert unit()["OOMPolicy"] == ["continue"]


def test_the_units_folders_are_side_by_side_and_made() -> None:
    """Each path that is set is one that StateDirectory makes."""
    made = {f"/var/lib/{name}" for name in unit()["StateDirectory"][0].split()}
    told = dict(value.split("=", 1) for value in unit()["Environment"])
    paths = {told[name] for name in ("CLAUDE_CONFIG_DIR", "Q9GENT_SESSION_DIR", "Q9GENT_SPOOL_DIR")}
    assert {*paths, unit()["WorkingDirectory"][0]} == made - {STATE}


def test_the_units_command_line_is_accepted() -> None:
    """Its flags exist."""
    (command,) = unit()["ExecStart"]
    check_flags(command.split()[1:])
    with pytest.raises(click.UsageError):
        check_flags(["--no-such-flag"])


def test_what_would_break_the_cli_is_left_out() -> None:
    """It compiles at run time, and its sandbox uses namespaces."""
    assert not {"MemoryDenyWriteExecute", "RestrictNamespaces", "PrivateUsers", "ProcSubset"} & set(unit())


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say about it."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    path = tmp_path / "q9gent.service"
    path.write_text(
        text_of("q9gent.service").replace("/opt/q9gent/bin/q9gent", sys.executable), encoding="utf-8"
    )
    done = subprocess.run(
        [analyze, "verify", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
