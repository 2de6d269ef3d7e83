"""Collects one table of ratios per run, printed at the end and kept as results/benchmarks.json."""

import json
import platform
from pathlib import Path

import pytest

ROWS: list[dict] = []


@pytest.fixture
def record():
    """record(name, value, goal) adds a row; ``goal`` is a text like ">= 0.6"."""

    def add(name: str, value: float, goal: str = "") -> None:
        ROWS.append({"name": name, "value": round(float(value), 4), "goal": goal})
        print(f"{name}: {value:.3g} {f'(goal {goal})' if goal else ''}")

    return add


def pytest_terminal_summary(terminalreporter):
    if not ROWS:
        return
    terminalreporter.section("benchmarks")
    width = max(len(row["name"]) for row in ROWS)
    for row in ROWS:
        terminalreporter.write_line(f"{row['name']:<{width}}  {row['value']:>10.4g}  {row['goal']}")
    path = Path("results") / "benchmarks.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        json.dumps({"processor": platform.processor() or platform.machine(), "rows": ROWS}, indent=1) + "\n"
    )
