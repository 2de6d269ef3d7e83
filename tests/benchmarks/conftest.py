"""Collects one table of ratios per run, printed at the end; the latest of each is kept in docs/, as JSON and pages."""

import json
import platform
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ..scale import page as page_of_scaling

FILE = Path(__file__).parents[2] / "docs" / "benchmarks.json"
ROWS: list[dict] = []


@pytest.fixture
def record():
    """record(name, value, goal) adds a row; ``goal`` is a text like ">= 0.6"."""

    def add(name: str, value: float, goal: str = "") -> None:
        ROWS.append({"name": name, "value": round(float(value), 4), "goal": goal})
        print(f"{name}: {value:.3g} {f'(goal {goal})' if goal else ''}")

    return add


def keep(file: Path, rows: list[dict]) -> None:
    """Write rows to a file that may hold others: a row takes the place of that of its name, new ones come last."""
    kept = {row["name"]: row for row in json.loads(file.read_text())["rows"]} if file.exists() else {}
    where = {"processor": platform.processor() or platform.machine(), "date": datetime.now(UTC).date().isoformat()}
    kept |= {row["name"]: {**row, **where} for row in rows}
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"rows": list(kept.values())}, indent=1, ensure_ascii=False) + "\n")
    file.with_suffix(".md").write_text(page(list(kept.values())))


def page(rows: list[dict]) -> str:
    """The rows as a page."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench` (tests/benchmarks), from [benchmarks.json](benchmarks.json): the latest of every",
        "row. Ratios are of timings taken in one run, side by side; tests/benchmarks/ says what each compares.",
        "",
        "| what | value | goal | measured |",
        "|---|---|---|---|",
    ]
    lines += [f"| {row['name']} | {row['value']:.4g} | {row['goal']} | {row['date']} |" for row in rows]
    return "\n".join(lines) + "\n"


def pytest_terminal_summary(terminalreporter):
    if not ROWS:
        return
    terminalreporter.section("benchmarks")
    width = max(len(row["name"]) for row in ROWS)
    for row in ROWS:
        terminalreporter.write_line(f"{row['name']:<{width}}  {row['value']:>10.4g}  {row['goal']}")
    keep(FILE, ROWS)
    page_of_scaling.main()
