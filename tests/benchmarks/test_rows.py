"""A run of some of the benchmarks keeps the rows of the others."""

import json

from .conftest import keep


def test_rows_are_merged_by_name(tmp_path):
    file = tmp_path / "results" / "benchmarks.json"
    first, second, third = (
        {"name": name, "value": value, "goal": ""} for name, value in (("a", 1), ("b", 2), ("a", 3))
    )
    keep(file, [first, second])
    keep(file, [third])
    rows = json.loads(file.read_text())["rows"]
    assert [(row["name"], row["value"]) for row in rows] == [("a", 3), ("b", 2)]
    assert all(row["processor"] and row["date"] for row in rows)
    page = file.with_suffix(".md").read_text().splitlines()
    assert [line.split(" | ")[:2] for line in page[-2:]] == [["| a", "3"], ["| b", "2"]]
