"""The documentation says what the code does: tables are compared, examples are decoded."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import click
import msgspec
import pytest
from hypercorn.config import Config

import q9gent
from q9gent import client, errors
from q9gent.cli import cli
from q9gent.cli.limits import RUN_BYTES, RUN_DESCRIPTORS
from q9gent.client._protocol import URL_VARIABLE
from q9gent.command import ARGUMENT_BYTES
from q9gent.containment.protocol import KILL_TIMEOUT_SECONDS
from q9gent.ending import CAUSES
from q9gent.http.app import create_app
from q9gent.http.connection import HANDSHAKE_SECONDS
from q9gent.http.http1 import READ_AHEAD_BYTES
from q9gent.http.serve import BACKLOG
from q9gent.metrics import Metrics
from q9gent.output.pump import LEFT_BYTES, STDERR_LINE_BYTES, STDERR_LOG_BYTES
from q9gent.output.spool import SEGMENTS
from q9gent.sessions.files import SESSION_BYTES
from q9gent.settings import ENVIRONMENT_PREFIX, GIB, KIB, MIB, Settings
from q9gent.threads import DISK_SECONDS
from q9gent.wire.events import Code, Completed, Event, Failed
from q9gent.wire.requests import MessageRequest, SpawnRequest, decode_request

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))

FENCE = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
CURL = re.compile(
    r"^ *curl [^`\n]*?(?P<path>/(?:spawn|message)\b)[^`']*'content[^`']*'[^`']*?-d '(?P<body>[^']*)'",
    re.MULTILINE,
)
FLAG = re.compile(r"(?<![\w/-])--[a-z][A-Za-z-]*[a-zA-Z]")
VARIABLE = re.compile(rf"\b{ENVIRONMENT_PREFIX}[A-Z_]+")
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")

SOME_ID = "550e8400-e29b-41d4-a716-446655440000"

FLAGS_OF_OTHERS = {
    # the conformance suite
    *("--conformance-table", "--strategy"),
    # the Claude CLI
    *("--allowedTools", "--append-system-prompt", "--dangerously-skip-permissions", "--fork-session"),
    *(
        "--include-partial-messages",
        "--input-format",
        "--max-tokens",
        "--max-turns",
        "--model",
        "--output-format",
        "--resume",
        "--restricted",
    ),
    *("--session-id", "--system-prompt-snapshot", "--tools", "--verbose"),
    # the benchmarks
    *("--claude", "--json", "--only", "--peer", "--plot", "--python", "--quick", "--rounds"),
    *("--mcp-config", "--strict-mcp-config"),
    # curl, jq; a placeholder
    *("--arg", "--cacert", "--cert", "--fail-with-body", "--unix-socket", "--option"),
    # docker, kubectl, systemd, pip, apt-get, useradd, ps; an MCP server's
    *(
        "--build",
        "--entrypoint",
        "--forest",
        "--from",
        "--from-literal",
        "--init",
        "--now",
        "--read-only",
        "--rm",
    ),
    *("--create-home", "--home-dir", "--interval", "--no-cache-dir", "--no-install-recommends", "--shell"),
    *("--start-period", "--system", "--timeout", "--uid"),
}


def page(name: str) -> str:
    """The text of a page."""
    return (DOCS / name).read_text(encoding="utf-8")


def section(name: str, heading: str) -> str:
    """The text of one section of a page, without its heading."""
    parts = re.split(r"^(#+) +(.*)$", page(name), flags=re.MULTILINE)
    level = 0
    found = ""
    for hashes, title, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        if level and len(hashes) <= level:
            break
        if level:
            found += text
        elif title == heading:
            level, found = len(hashes), text
    assert level, f"no section {heading!r} in {name}"
    return found


def rows(text: str) -> list[list[str]]:
    """The cells of the tables in a text, headings left out."""
    lines = [line.strip() for line in text.splitlines()]
    tables = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")
    ]
    rules = [index for index, cells in enumerate(tables) if set("".join(cells)) <= set("-: |")]
    return [cells for index, cells in enumerate(tables) if index not in rules and index + 1 not in rules]


def blocks(language: str) -> Iterator[Any]:
    """The code blocks of a language in all pages, as test parameters."""
    for name in PAGES:
        for number, match in enumerate(FENCE.finditer(page(name)), 1):
            if match[2] == language:
                indent = len(match[1])
                code = "".join(line[indent:] for line in match[3].splitlines(keepends=True))
                yield pytest.param(code, id=f"{name}-{number}")


def curls() -> Iterator[Any]:
    """The bodies that pages post with curl, as test parameters."""
    for name in PAGES:
        text = page(name).replace("""'"$SESSION_ID"'""", SOME_ID)  # the shell puts one in there
        for number, match in enumerate(CURL.finditer(text), 1):
            yield pytest.param(match["path"], match["body"], id=f"{name}-{number}")


# Settings.


def plain_type(hint: Any) -> tuple[Any, list[msgspec.Meta]]:
    """A field's type without its annotations, and these."""
    metas: list[msgspec.Meta] = []
    while get_origin(hint) is Annotated or type(None) in get_args(hint):
        if get_origin(hint) is Annotated:
            hint, *more = get_args(hint)
            metas += more
        else:
            hint = next(part for part in get_args(hint) if part is not type(None))
    return hint, metas


def shown(value: object) -> str:
    """A value as the table shows it."""
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "`on`" if value else "`off`"
    if isinstance(value, int) and value >= KIB:
        for unit, size in ("GiB", GIB), ("MiB", MIB), ("KiB", KIB):
            if value % size == 0 and value >= 64 * KIB:
                return f"`{value}` ({value // size} {unit})"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def bounds(hint: Any) -> str:
    """What a setting may be, as the table shows it."""
    kind, metas = plain_type(hint)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(kind))
    if kind is bool:
        return "`on`, `off`"
    low = next((f"≥ {shown(meta.ge)}" for meta in metas if meta.ge is not None), "")
    low = low or next((f"> {shown(meta.gt)}" for meta in metas if meta.gt is not None), "")
    high = next((f"≤ {shown(meta.le)}" for meta in metas if meta.le is not None), "")
    return ", ".join(filter(None, (low, high))) or "any"


def settings_rows() -> list[list[str]]:
    """The settings' table as it must stand in the page."""
    hints = get_type_hints(Settings, include_extras=True)
    found = []
    for field in msgspec.structs.fields(Settings):
        _, metas = plain_type(hints[field.name])
        description = next(meta.description for meta in metas if meta.description)
        flag = f"`--{field.name.replace('_', '-')}`"
        variable = f"`{ENVIRONMENT_PREFIX}{field.name.upper()}`"
        found.append([flag, variable, shown(field.default), bounds(hints[field.name]), description])
    return found


def test_every_setting_has_its_row() -> None:
    """Flag, variable, default, bounds and description are those of the table in the code, in its order."""
    expected = settings_rows()
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in expected)
    assert rows(section("reference/settings.md", "All settings")) == expected, f"it must be:\n{table}"


def all_commands() -> list[click.Command]:
    """The command line, and each command of it."""
    found: list[click.Command] = [cli]
    for command in found:
        if isinstance(command, click.Group):
            found += command.commands.values()
    return found


def test_mentioned_flags_exist() -> None:
    """A flag in any page is one of ours, or known as another program's."""
    ours = {
        option
        for command in all_commands()
        for parameter in command.get_params(click.Context(command))
        for option in parameter.opts
    }
    found = {(name, flag) for name in PAGES for flag in FLAG.findall(page(name))}
    assert {flag for _, flag in found} >= {"--allowed-host", "--claude-path", "--simulate"}
    assert [pair for pair in sorted(found) if pair[1] not in ours | FLAGS_OF_OTHERS] == []


def test_mentioned_variables_exist() -> None:
    """An environment variable of ours in any page is a setting's, or the clients' one."""
    ours = {ENVIRONMENT_PREFIX + field.upper() for field in Settings.__struct_fields__} | {URL_VARIABLE}
    found = {(name, variable) for name in PAGES for variable in VARIABLE.findall(page(name))}
    assert [pair for pair in sorted(found) if pair[1] not in ours] == []


# Limits.

UNITS = {"": 1, "MB": 10**6, "KiB": KIB, "MiB": MIB, "GiB": GIB}

FIXED_LIMITS: dict[str, list[float]] = {
    "killing": [KILL_TIMEOUT_SECONDS],
    "headers": [Config().h11_max_incomplete_size],
    "bytes behind a request": [READ_AHEAD_BYTES],
    "TLS handshake": [HANDSHAKE_SECONDS],
    "one argument": [ARGUMENT_BYTES],
    "standard error": [STDERR_LOG_BYTES, STDERR_LINE_BYTES],
    "output of a dead run": [LEFT_BYTES],
    "a disk that does not answer": [DISK_SECONDS],
    "a session file": [SESSION_BYTES],
}
"""What the table of limits has beside the settings, as the code has it."""


def quantities(text: str) -> list[float]:
    """The numbers of a text; sizes in bytes, whatever their unit."""
    found = re.findall(rf"(\d[\d,]*(?:\.\d+)?)(?: ({'|'.join(filter(None, UNITS))})\b)?", text)
    return [float(number.replace(",", "")) * UNITS[unit] for number, unit in found]


def test_every_limit_is_the_codes_own() -> None:
    """The table has each setting that is a number with its default, and each fixed limit with its constant."""
    expected = dict(FIXED_LIMITS)
    for field in msgspec.structs.fields(Settings):
        kind, _metas = plain_type(field.type)
        if kind in {int, float} and field.name != "port":
            flag = f"`--{field.name.replace('_', '-')}`"
            expected[flag] = [] if field.default is None else [field.default]
    documented = {
        cells[0]: quantities(cells[1])
        for cells in rows(section("how-to/limits-and-sizing.md", "Every limit"))
    }
    assert documented == expected


DEFAULT = Settings()


@pytest.mark.parametrize(
    "words",
    [
        f"the system's backlog ({BACKLOG:,})",
        f"in {SEGMENTS} pieces",
        f"up to {SEGMENTS + 1} more",
        f"{RUN_DESCRIPTORS} a run",
        f"one short turn | {RUN_BYTES // 10**6} MB",
        f"(memory for agents) / ({RUN_BYTES // 10**6} MB",
        f"The default of {DEFAULT.max_runs:,}",
        f"`--queue-seconds` ({DEFAULT.queue_seconds:g} s)",
        f"`--memory-bytes` ({DEFAULT.memory_bytes // MIB} MiB)",
    ],
)
def test_numbers_in_the_text_on_limits_are_the_codes_own(words: str) -> None:
    """Where a sentence names one."""
    assert words in " ".join(page("how-to/limits-and-sizing.md").split())


@pytest.mark.skipif(sys.platform != "linux", reason="the size of a pipe is set on Linux alone")
def test_the_sizes_of_pipes_are_the_codes_own() -> None:
    """For few runs, for more, for many; and for standard error."""
    pipes = importlib.import_module("q9gent.containment.pipes")
    text = section("how-to/limits-and-sizing.md", "Descriptors and processes")
    (sentence,) = re.findall(r"Each run takes (.*?):", text, re.DOTALL)
    few_have, few, more_have, more, many_have, standard_error = quantities(sentence)
    assert [pipes.output_pipe_bytes(int(count)) for count in (few, few + 1)] == [few_have, more_have]
    assert [pipes.output_pipe_bytes(int(count)) for count in (more, more + 1)] == [more_have, many_have]
    assert standard_error == pipes.STDERR_PIPE_BYTES


# The HTTP API.


def test_every_route_is_documented() -> None:
    """The page has a section for each method and path that is routed, and for no other."""
    rules = create_app(Settings(console=True, metrics=True)).url_map.iter_rules()
    routes = {
        f"`{method} {re.sub('<[^>]*>', '{id}', rule.rule)}`"
        for rule in rules
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    headings = re.findall(r"^### (`[A-Z]+ .*`)$", page("reference/http-api.md"), re.MULTILINE)
    assert {re.sub("{[a-z_]*}", "{id}", heading) for heading in headings} == routes
    assert len(headings) == len(routes)


def error_classes() -> dict[str, int]:
    """The errors that are raised, each with its status."""
    found = {}
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.Q9gentError) and not kind.__subclasses__():
            found[name] = kind.status
    return found


def test_every_error_is_documented() -> None:
    """The page's table of errors has each class with its status, and no other."""
    table = rows(section("reference/http-api.md", "Errors"))
    documented = {cells[1].strip("`"): int(cells[0]) for cells in table if cells[1].startswith("`")}
    assert documented == error_classes()


@pytest.mark.parametrize(
    ("heading", "kind"),
    [("`POST /spawn`", SpawnRequest), ("`POST /message/{session_id}`", MessageRequest)],
)
def test_every_request_field_is_documented(heading: str, kind: type[MessageRequest]) -> None:
    """The table of a body has each field, and says truly whether it is required."""
    table = rows(section("reference/http-api.md", heading))
    documented = {cells[0].strip("`"): cells[2] == "yes" for cells in table if len(cells) == 4}
    assert documented == {field.name: field.required for field in msgspec.structs.fields(kind)}


# Events.


def test_every_code_is_documented() -> None:
    """The page's table of codes is the closed set of the code, in its order."""
    table = rows(section("reference/events.md", "Codes"))
    assert [cells[0].strip("`") for cells in table] == list(get_args(Code))


def test_causes_are_documented_in_their_words() -> None:
    """For a cause from outside, the page quotes the text that the event carries."""
    table = {cells[0].strip("`"): cells[1] for cells in rows(section("reference/events.md", "Codes"))}
    assert [code for code, words in CAUSES.items() if f"`{words}" not in table[code]] == []


@pytest.mark.parametrize("kind", get_args(Event), ids=lambda kind: kind.__struct_config__.tag)
def test_every_event_field_is_documented(kind: type[msgspec.Struct]) -> None:
    """The table of an event has each of its fields, and no other."""
    tag = kind.__struct_config__.tag
    table = rows(section("reference/events.md", f"`{tag}`"))
    assert [cells[0].strip("`") for cells in table] == ["type", *kind.__struct_fields__]


@pytest.mark.parametrize("code", list(blocks("json")))
def test_json_examples_are_json(code: str) -> None:
    """What is shown as JSON is JSON."""
    json.loads(code)


def test_event_examples_have_the_fields_of_events() -> None:
    """The events shown in any page have no member that events lack."""
    known: dict[str, set[str]] = {"session_created": {"session_id"}, "output": {"data"}}
    known |= {"completed": set(Completed.__struct_fields__), "error": set(Failed.__struct_fields__)}
    found = [
        json.loads(text)
        for name in PAGES
        for text in re.findall(r"^ *data: (\{.*\})$", page(name), re.MULTILINE)
        if "…" not in text
    ]
    assert {event["type"] for event in found} == set(known)
    assert [event for event in found if not set(event) - {"type"} <= known[event["type"]]] == []


# The command line.


def test_exit_codes_are_documented() -> None:
    """The page's table has each exit status that the code names."""
    serve = importlib.import_module("q9gent.cli.serve")
    named = {value for name, value in vars(serve).items() if name.startswith("EXIT_")}
    table = rows(section("reference/command-line.md", "Exit status"))
    assert {int(cells[0].strip("`")) for cells in table} == {0, *named}


def test_exit_codes_of_run_are_documented() -> None:
    """As the server's are."""
    outcome = importlib.import_module("q9gent.cli.outcome")
    named = {value for name, value in vars(outcome).items() if name.startswith("EXIT_")}
    table = rows(section("reference/command-line.md", "`q9gent run`"))
    assert {int(cells[0].strip("`")) for cells in table if cells[0].strip("`").isdecimal()} == {0, *named}


@pytest.mark.parametrize("name", ["run", "ps", "kill", "sessions"])
def test_options_of_commands_are_documented(name: str) -> None:
    """Each is named in the section of its command."""
    text = section("reference/command-line.md", f"`q9gent {name}`")
    command = cli.commands[name]
    options = [
        parameter.opts[-1]
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.opts
    ]
    general = {"--url", "--quiet"}  # explained once
    assert [option for option in options if option not in general and f"`{option}" not in text + " `"] == []


# The client.


def test_the_client_is_documented() -> None:
    """Each public name, each method and argument, each member of a run and of what goes wrong."""
    text = page("reference/client.md")
    names = {*client.__all__} - {"Event", "AsyncRun", "Run"}
    for kind in client.Client, client.Run, client.AsyncClient, client.Result:
        names |= {name for name in vars(kind) if not name.startswith("_")}
    for method in client.Client, client.Client.spawn, client.Client.message, client.Client.terminate:
        names |= {*inspect.signature(method).parameters}
    names |= {*client.Result.__struct_fields__, *Failed.__struct_fields__} - {"self", "error"}
    words = set(re.findall(r"\w+", text))
    assert sorted(names - {"self"} - words) == []


def test_subcommands_are_documented() -> None:
    """Each subcommand has a section of the command line's page."""
    for name in cli.commands:
        assert section("reference/command-line.md", f"`q9gent {name}`")


def test_start_up_lines_are_documented() -> None:
    """The last of the five lines is quoted as it is printed."""
    serve = importlib.import_module("q9gent.cli.serve")
    assert f"📍 Endpoints: {serve.ENDPOINTS}" in page("reference/command-line.md")


def test_every_strategy_is_documented() -> None:
    """The containment page's table has each strategy that can be named."""
    hint, _ = plain_type(get_type_hints(Settings, include_extras=True)["containment"])
    table = rows(section("reference/containment.md", "Strategies"))
    assert {cells[0].strip("`") for cells in table} == {*get_args(hint)} - {"auto"}


def test_every_behaviour_has_its_row() -> None:
    """The table of the containment page has the conformance suite's behaviours, and no other."""
    suite = ast.parse((ROOT / "tests/containment/test_conformance.py").read_text(encoding="utf-8"))
    tests = [
        node
        for node in suite.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]
    behaviours = [(ast.get_docstring(test) or "").rstrip(".") for test in tests]
    table = rows(section("reference/containment.md", "Conformance"))
    assert sorted(cells[0] for cells in table) == sorted(behaviours)
    assert not [cells for cells in table if "fails" in " ".join(cells)]


# What people see and type.


@pytest.mark.parametrize(
    "error",
    [
        errors.ProcessSpawnFailed("No such file or directory"),
        errors.SessionNotFound("SESSION_ID"),
        errors.RunNotFound("ID"),
        errors.SessionBusy("SESSION_ID"),
        errors.MisdirectedRequest("q9gent.example.com"),
        errors.UnsupportedMedia("application/x-www-form-urlencoded"),
        errors.AtCapacity("1024 runs are live, and none ended within 10 s", retry_after_seconds=10),
        errors.BodyTimeout(60),
        errors.ShuttingDown(),
        errors.SurvivorsLeft((4711,)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_troubleshooting_quotes_the_message(error: errors.Q9gentError) -> None:
    """A reader who searches for a message finds it, to the letter."""
    assert str(error) in page("how-to/troubleshooting.md")


@pytest.mark.parametrize(("path", "body"), list(curls()))
def test_curl_bodies_are_requests(path: str, body: str) -> None:
    """What a page posts with curl is accepted."""
    assert decode_request(body.encode(), SpawnRequest if path == "/spawn" else MessageRequest).prompt


def test_use_cases_are_all_there() -> None:
    """The eight use cases and the four patterns each have a section."""
    titles = re.findall(r"^## (?:Use case|Pattern) (\d)", page("how-to/use-cases.md"), re.MULTILINE)
    assert titles == [*"12345678", *"1234"]


@pytest.mark.parametrize("code", list(blocks("python")))
def test_python_examples_compile(code: str) -> None:
    """What is shown as Python is Python."""
    ast.parse(code)


@pytest.mark.parametrize("code", list(blocks("toml")))
def test_toml_examples_are_toml(code: str) -> None:
    """What is shown as TOML is TOML."""
    assert tomllib.loads(code)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    """The relative links of a page are files of the documentation."""
    folder = (DOCS / name).parent
    assert [link for link in LINK.findall(page(name)) if not (folder / link).resolve().is_file()] == []


def test_navigation_has_every_page() -> None:
    """Each page stands once in the site's navigation."""
    listed = re.findall(r"^ *- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == PAGES


def test_changelog_begins_with_this_version() -> None:
    """The newest released entry of the changelog is the version of the package."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(\d[^]]*)\] - \d{4}-\d{2}-\d{2}$", text, re.MULTILINE)
    assert versions[0] == q9gent.__version__


# Metrics and log.

NONE = "\N{EN DASH}"
"""What a table has where there is nothing."""


def test_every_metric_is_documented() -> None:
    """The page's table has each with its type and its labels, and no other."""
    in_code = {}
    metrics = Metrics()
    metrics._build.info({"version": "1", "python": "3", "containment": "linux"})
    for family in metrics.registry.collect():
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        kind = "gauge" if family.type == "info" else family.type
        in_code[family.name + suffix] = (kind, labels)
    documented = {
        cells[0].strip("`"): (cells[1], {label.strip("`") for label in cells[2].split(", ")} - {NONE})
        for cells in rows(section("reference/metrics.md", "All metrics"))
    }
    assert documented == in_code


def logged() -> dict[str, tuple[set[str], set[str], set[str]]]:
    """Each line that the code writes: its levels, its loggers and its fields, as far as they stand there."""
    found: dict[str, tuple[set[str], set[str], set[str]]] = {}
    for path in sorted((ROOT / "q9gent").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [
            ast.literal_eval(call.args[0])
            for call in ast.walk(tree)
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "get_logger" and call.args
        ]
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call) or not re.fullmatch(r"logger\.\w+|log", ast.unparse(call.func)):
                continue
            method = ast.unparse(call.func).rpartition(".")[2]
            fields = {word.arg or "**" for word in call.keywords}
            if method == "exception" or "exc_info" in fields:
                fields = fields - {"exc_info"} | {"exception"}
            levels = {"log": {"info", "warning"}, "exception": {"error"}}.get(method, {method})
            entry = found.setdefault(ast.literal_eval(call.args[0]), (set(), set(), set()))
            for known, new in zip(entry, (levels, set(names), fields), strict=True):
                known.update(new)
    return found


def test_every_log_line_is_documented() -> None:
    """The page's table has each line with its levels, loggers and fields, and no other."""
    in_code = logged()
    summary = ("code", "exit_code", "signal", "killed", "survivors", "duration_ms")  # of Ending.facts
    in_code["run ended"][2].remove("**")
    in_code["run ended"][2].update(summary)
    documented = {
        cells[0].strip("`"): (
            set(cells[1].split(", ")),
            set(re.findall("`([^`]+)`", cells[2])),
            set(re.findall("`([^`]+)`", cells[3])),
        )
        for cells in rows(section("reference/logs.md", "Lines"))
    }
    assert documented == in_code
