"""The README keeps its promises: its Python runs, its commands exist, its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from scratchgen.cli import build_parser

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
SHELL = [code for language, code in BLOCKS if language in ("sh", "console")]


def commands():
    """Every `scratchgen ...` command line of the README."""
    for block in SHELL:
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;|\|", line.split(" # ")[0]):
                words = shlex.split(part)
                names = [i for i, word in enumerate(words) if Path(word).name == "scratchgen"]
                if names:
                    yield words[names[0] + 1:]


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python_blocks_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_commands_can_be_parsed(words):
    build_parser().parse_args(words)


def test_there_are_blocks_to_run():
    assert PYTHON
    assert len(list(commands())) >= 5


def test_links_and_pictures_are_there():
    targets = re.findall(r"\]\(([^)#]+)\)", TEXT)
    local = [target for target in targets if "://" not in target]
    assert local
    assert not [target for target in local if not (ROOT / target).exists()]
