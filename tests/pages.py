"""The code of documentation pages, run block by block as a reader would.

Fenced blocks are taken in the order of the page:

  bash     run in the folder; any command that fails fails the page
  python   run as a program in the folder
  text     what the block before it prints: each line, in this order; … stands for anything
  diff     a change of a file: the lines of each hunk, which are found in the file exactly once

An HTML comment in the line above a fence, which readers do not see, says otherwise: ``<!-- test: skip, WHY -->`` (shown
only), ``<!-- file: PATH -->`` (the block is written to that file), ``<!-- lines of: PATH -->`` (its lines are there).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]

FENCE = re.compile(
    r"(?:^<!-- (?P<note>(?:test|file|lines of): .*?) -->\n+)?^```(?P<language>[\w-]+)\n(?P<code>.*?)^```$",
    flags=re.DOTALL | re.MULTILINE,
)

#: Languages of blocks that are followed, and of those that are no code; others need a comment.
LANGUAGES, WORDS = {"bash", "python", "text", "diff"}, {"math"}


class Block(NamedTuple):
    """A fenced block.

    Attributes:
      note: text of the comment above it, "" where there is none.
      page, line: name of the page and number of its first line there.
    """

    page: str
    language: str
    code: str
    note: str
    line: int


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page that are not skipped, in order."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(page.name, m["language"], m["code"], m["note"] or "", text.count("\n", 0, m.start("code")) + 1)
        for m in FENCE.finditer(text)
        if m["language"] not in WORDS
    ]
    for block in found:
        assert block.note or block.language in LANGUAGES, f"{block.page}:{block.line}: nothing says what this is for"
    return [block for block in found if not block.note.startswith("test: skip")]


def copy_project(folder: Path) -> None:
    """A copy of the working tree in ``folder``, as a clone would be: without results, with the environment in .venv."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (ROOT / name).exists():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target, follow_symlinks=False)
    (folder / ".venv").symlink_to(sys.prefix)


class Reader:
    """Runs a page in a folder.

    Attributes:
      folder: working directory of all blocks.
      printed: what the last block printed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.printed = folder, ""

    def read(self, page: Path) -> None:
        """Follow all blocks of a page."""
        for block in blocks(page):
            self.follow(block)

    def follow(self, block: Block) -> None:
        """Follow a block; AssertionError that names page and line where it is not as the page says."""
        try:
            self._follow(block)
        except AssertionError as error:
            raise AssertionError(f"{block.page}:{block.line} ({block.language}): {error}") from None

    def _follow(self, block: Block) -> None:
        what, _, name = block.note.partition(": ")
        if what == "file":
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.code, encoding="utf-8")
        elif what == "lines of":
            check_printed(block.code, (self.folder / name).read_text(encoding="utf-8"))
        elif block.language == "bash":
            self.run(block.code)
        elif block.language == "python":
            self._run(sys.executable, "-c", block.code)
        elif block.language == "text":
            check_printed(block.code, self.printed)
        else:
            change(block.code, self.folder)

    def run(self, commands: str) -> None:
        """Run commands of a shell; AssertionError with what was printed if one of them fails."""
        self._run("bash", "-e", "-c", commands)

    def _run(self, *command: str) -> None:
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{self.folder / 'src'}{os.pathsep}{self.folder}",
            "NPROC": "1",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "COLUMNS": "160",
        }
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        self.printed = done.stdout
        assert done.returncode == 0, f"exit code {done.returncode}:\n{done.stdout}"


def check_printed(expected: str, printed: str) -> None:
    """AssertionError unless the lines of ``expected`` that have a word are printed, in order; … is anything.

    Spaces count as one: columns of tables are as wide as their content.
    """
    lines = iter(" ".join(line.split()) for line in printed.splitlines())
    for wanted in expected.splitlines():
        if not re.search(r"\w", wanted):
            continue  # "…" alone, for lines left out, and rules of tables
        pattern = ".*".join(re.escape(part) for part in " ".join(wanted.split()).split("…"))
        assert any(re.fullmatch(pattern, line) for line in lines), f"not printed: {wanted!r}; printed was:\n{printed}"


def change(diff: str, folder: Path) -> None:
    """Apply a diff of one file, whose hunks are found by their lines."""
    header, *hunks = re.split(r"^@@.*\n", diff, flags=re.MULTILINE)
    path = folder / re.findall(r"^\+\+\+ (.*)$", header, flags=re.MULTILINE)[0]
    text = path.read_text(encoding="utf-8")
    for hunk in hunks:
        lines = hunk.splitlines(keepends=True)
        before, after = ("".join(line[1:] or "\n" for line in lines if line[0] in kept) for kept in (" -\n", " +\n"))
        assert text.count(before) == 1, f"{path.name} has these lines {text.count(before)} times:\n{before}"
        text = text.replace(before, after)
    path.write_text(text, encoding="utf-8")
