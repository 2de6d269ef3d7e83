"""docs/notebooks/quickstart.ipynb: what is stored in it comes out when it is run again."""

import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "quickstart.ipynb"


def printed(notebook):
    """Kind of augmentation → slope, its error, ratio, its error, as the notebook prints them."""
    text = "".join(
        output["text"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream"
    )
    return {
        line.split(":")[0].split()[-1]: [float(number) for number in re.findall(r"(?<![\w-])-?\d+\.\d+", line)]
        for line in text.splitlines()
    }


def figures(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_the_notebook_is_executed_small_and_from_nowhere():
    content = NOTEBOOK.read_text()
    notebook = nbformat.reads(content, as_version=4)
    nbformat.validate(notebook)
    assert len(content) < 300_000
    assert not re.search(r"/(home|root|tmp|work|Users)/|site-packages", content)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert figures(notebook) == 2
    stored = printed(notebook)
    slope, error, ratio, ratio_error = stored["full"]
    assert abs(slope + 0.5) < 4 * error < 0.1
    assert 4 * ratio_error < 0.2 and abs(ratio - 1) < 0.25, "finite width, which the kernel does not know"
    assert stored["none"][0] > -0.3


@pytest.mark.slow
def test_it_runs_and_gives_what_is_stored(tmp_path):
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    stored = printed(notebook)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    found = printed(client.execute())
    assert figures(notebook) == 2
    assert found.keys() == stored.keys() == {"full", "none"}
    for kind, numbers in stored.items():
        assert found[kind] == pytest.approx(numbers, abs=0.011), "but for round-off in the last digit"
