"""The longest files come first: a file is one worker's, and none should be left with one at the end."""

FIRST = ("workflow", "slurm", "reliability")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not any(f"tests/{folder}/" in item.nodeid for folder in FIRST))
