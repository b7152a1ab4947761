"""``python -m benchmarks``: q9gent beside another server, in alternation within one run.

docs/how-to/benchmarks.md says what each figure means.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
import sys
import tempfile
import time

from benchmarks.build import build
from benchmarks.processes import kill_all
from benchmarks.report import plot, table
from benchmarks.results import Results
from benchmarks.servers import BrokenRun, Contestant, Tools
from benchmarks.workloads import WORKLOADS, Workload
from benchmarks.workloads.realcli import find_claude

ROUNDS = 5
QUIET_LOAD = 0.5


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    names = [workload.name for workload in WORKLOADS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--peer", metavar="PATH", help="the server to compare with; else the bare agent")
    parser.add_argument("--only", nargs="+", metavar="WORKLOAD", choices=names, help=", ".join(names))
    parser.add_argument("--rounds", type=int, help=f"samples of each server and workload ({ROUNDS})")
    parser.add_argument(
        "--quick", action="store_true", help="small samples, judged by nothing: to see that all works"
    )
    parser.add_argument("--json", metavar="FILE", help="write all samples")
    parser.add_argument("--plot", metavar="FILE", help="draw the ratios (needs matplotlib)")
    parser.add_argument(
        "--claude", metavar="PATH", help="the CLI for realcli; else the bundled or installed one"
    )
    parser.add_argument("--python", metavar="PATH", default=sys.executable, help="the one that has q9gent")
    return parser


def sample(workload: Workload, contestant: Contestant | None, tools: Tools) -> dict[str, float]:
    """Measure a server, or without one the bare agent."""
    if contestant is not None:
        return workload.measure(contestant, tools)
    if workload.bare is None:
        return {}
    return workload.bare(tools)


def contestants_of(
    workload: Workload, ours: Contestant, peer: Contestant | None
) -> list[tuple[str, Contestant | None]]:
    """Return who is measured: the bare agent too, where there is no peer or where it is what counts."""
    found: list[tuple[str, Contestant | None]] = [(ours.name, ours)]
    if peer is not None:
        found.append((peer.name, peer))
    if workload.bare is not None and (peer is None or workload.needs_claude):
        found.append(("bare", None))
    return found


def measure(options: argparse.Namespace, tools: Tools, results: Results) -> None:
    """Measure each workload, round by round, the servers in turn; every other round the other way round."""
    ours = Contestant("q9gent", (options.python, "-m", "q9gent"))
    peer = Contestant("peer", (os.path.abspath(options.peer),), ends_runs=False) if options.peer else None
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    for workload in WORKLOADS:
        if options.only and workload.name not in options.only:
            continue
        if workload.needs_claude and tools.claude is None:
            print(f"{workload.name}: left out, there is no Claude CLI", file=sys.stderr)
            continue
        begin = time.monotonic()
        for number in range(rounds):
            for name, contestant in contestants_of(workload, ours, peer)[:: -1 if number % 2 else 1]:
                try:
                    results.add(workload.name, name, number, sample(workload, contestant, tools))
                except BrokenRun as error:
                    results.broken.append((workload.name, name, number, str(error)))
        print(f"{workload.name}: {workload.about} ({time.monotonic() - begin:.0f} s)", file=sys.stderr)


def main() -> int:
    """Measure, report, and return the exit status: 1 if a figure of q9gent's could not be taken."""
    options = make_parser().parse_args()
    if sys.platform != "linux":
        raise SystemExit("the benchmarks need Linux: they read /proc")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a thousand streams, here and in the servers
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like ^C: nothing may stay alive
    busy = os.getloadavg()[0]
    results = Results(judged=not options.quick)
    with tempfile.TemporaryDirectory(prefix="q9gent-bench-") as folder:
        claude = os.path.abspath(options.claude) if options.claude else find_claude()
        tools = Tools(folder, build("agent", folder), build("load", folder), options.quick, claude)
        try:
            measure(options, tools, results)
        except KeyboardInterrupt:
            print("interrupted: what there is", file=sys.stderr)
        finally:
            kill_all(tools.agent)
    other = "peer" if options.peer else "bare"
    print(table(results, other))
    if busy > QUIET_LOAD:
        print(
            f"the machine was busy before (load {busy:.1f}): figures waver, ratios less so", file=sys.stderr
        )
    if options.json:
        about = {
            "python": options.python,
            "machine": platform.platform(),
            "cpus": os.cpu_count(),
            "load": busy,
        }
        with open(options.json, "w") as file:
            json.dump({**about, **results.as_json()}, file, indent=1)
    if options.plot:
        plot(results, other, options.plot)
    return 1 if any(server == "q9gent" for _, server, *_ in results.broken) else 0


if __name__ == "__main__":
    sys.exit(main())
