"""Text files of the repository: no line ends with spaces, and each file ends with one newline.

python -m tests.text_files [--fix] [FILE …]: without files those that git knows; exit code 1 if one was not so.
"""

import subprocess
import sys
from pathlib import Path

#: What ends lines with spaces on purpose, or is not text.
EXEMPT = {".svg", ".png", ".gz", ".ipynb", ".npz", ".zip"}


def mended(text: str) -> str:
    """The text as it should be. An empty one stays, and so does a line of one space: an empty one in a diff."""
    lines = [line if line == " " else line.rstrip(" \t") for line in text.splitlines()]
    return "\n".join(lines).rstrip("\n") + "\n" if text.strip() else ""


def wrong(files: list[Path], *, fix: bool = False) -> list[Path]:
    """Those of the files that are not so; mended where asked."""
    found = []
    for file in files:
        if file.suffix in EXEMPT or file.is_symlink() or not file.is_file():
            continue
        text = file.read_bytes().decode()
        if mended(text) != text:
            found.append(file)
            if fix:
                file.write_bytes(mended(text).encode())
    return found


def tracked(root: Path) -> list[Path]:
    """All files that git knows."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True).stdout.decode()
    return [root / name for name in listed.split("\0") if name]


if __name__ == "__main__":
    given = [Path(name) for name in sys.argv[1:] if name != "--fix"]
    bad = wrong(given or tracked(Path()), fix="--fix" in sys.argv)
    print(*bad, sep="\n")
    sys.exit(bool(bad))
