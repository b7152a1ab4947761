"""Prints the results as a table, and draws them."""

from __future__ import annotations

from collections import Counter

from benchmarks.results import Results, Spread, Verdict

HEADINGS = ("figure", "q9gent (min-max)", "other (min-max)", "ratio (min-max)", "to reach", "holds")
WORDS = {True: "yes", False: "NO", None: "unknown"}


def table(results: Results, other: str) -> str:
    """Return the table: a row a figure; ratios are medians of those within each round.

    Args:
        results: What was measured.
        other: The server to compare with: ``peer`` or ``bare``.
    """
    verdicts: dict[str, list[Verdict]] = {}
    for verdict in results.verdicts():
        verdicts.setdefault(verdict.target.figure, []).append(verdict)
    rows = [tuple(heading.replace("other", other) for heading in HEADINGS)]
    for figure in results.samples:
        told = verdicts.pop(figure, [])
        against = "bare" if any(verdict.target.to == "bare" for verdict in told) else other
        rows.append(_row(results, figure, against, told, marked=against != other))
    rows += [(figure, "-", "-", "-", *_wanted(told)) for figure, told in verdicts.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    failed = Counter((name, server, why) for name, server, _round, why in results.broken)
    lines += [
        f"no figure: {name}, {server} ({count}x): {why}" for (name, server, why), count in failed.items()
    ]
    return "\n".join(line.rstrip() for line in lines)


def _row(results: Results, figure: str, other: str, told: list[Verdict], *, marked: bool) -> tuple[str, ...]:
    theirs = _spread(results.spread(figure, other))
    return (
        figure,
        _spread(results.spread(figure, "q9gent")),
        f"{other}: {theirs}" if marked else theirs,
        _spread(results.ratio(figure, "q9gent", figure, other)),
        *_wanted(told),
    )


def _wanted(told: list[Verdict]) -> tuple[str, str]:
    return "; ".join(str(verdict.target) for verdict in told), "; ".join(map(_judged, told))


def _judged(verdict: Verdict) -> str:
    word = WORDS[verdict.holds]
    without = f", {verdict.broken} rounds without a figure" if verdict.broken else ""
    return word if verdict.value is None else f"{word} ({number(verdict.value)}{without})"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return f"{number(spread.median)} ({number(spread.least)}-{number(spread.greatest)})"


def number(value: float) -> str:
    """Write a number with three figures that count, or all of a large one's."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def plot(results: Results, other: str, path: str) -> None:
    """Draw the ratio of every figure, with its spread and, where there is one, what is to be reached.

    Args:
        results: What was measured.
        other: The server to compare with.
        path: The file; its ending says the format.

    Raises:
        SystemExit: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 (optional)
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install matplotlib") from None
    ratios = {figure: results.ratio(figure, "q9gent", figure, other) for figure in results.samples}
    drawn = {figure: ratio for figure, ratio in ratios.items() if ratio and ratio.least > 0}
    figure_ = Figure(figsize=(9, 1.2 + 0.24 * len(drawn)), layout="constrained")
    axes = figure_.subplots()
    wanted = {v.target.figure: v.target.bound for v in results.verdicts() if v.target.to == other}
    for row, (name, ratio) in enumerate(reversed(drawn.items())):
        axes.plot([ratio.least, ratio.greatest], [row, row], color="tab:blue", linewidth=2, alpha=0.4)
        axes.plot(ratio.median, row, "o", color="tab:blue")
        if name in wanted:
            axes.plot(wanted[name], row, "|", color="tab:red", markersize=12, markeredgewidth=2)
    axes.set_yticks(range(len(drawn)), list(reversed(drawn)), fontsize=8)
    axes.set_xscale("log")
    axes.axvline(1, color="gray", linewidth=1)
    axes.set_xlabel(f"q9gent / {other}: median and spread of the rounds; red: to reach")
    figure_.savefig(path)
