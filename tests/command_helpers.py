"""Commands as a user gives them: tiny runs to give them on, and what a refusal must look like."""

import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from scratchgen import cli, commands

ROOT = Path(__file__).resolve().parents[1]
TINY = ["--hidden", "8", "--latent", "2", "--epochs", "2", "--batch-size", "200"]


def train_both(folder):
    """Train a VAE and an autoencoder into folder/vae and folder/autoencoder, without pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands.Pictures, "of_run", lambda *args: None)
        for model in ("vae", "autoencoder"):
            assert cli.main(["train", model, *TINY, "--out", str(folder / model)]) == 0
    return folder


def assert_picture(path):
    """A PNG of a sensible size with something on it."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    picture = matplotlib.image.imread(path)
    height, width = picture.shape[:2]
    assert 100 <= height <= 4000 and 700 <= width <= 2000
    assert picture[:, :, :3].std() > 0.03


def change_checkpoint(folder, change):
    """Write the checkpoint again with what `change` makes of its arrays."""
    with np.load(folder / "checkpoint.npz") as archive:
        arrays = change(dict(archive))
    np.savez(folder / "checkpoint.npz", **arrays)


def snapshot(folder):
    """Every file below a folder with its bytes, and every folder."""
    return {path.relative_to(folder): path.read_bytes() if path.is_file() else None
            for path in folder.rglob("*")}


def complaint(argv, code, capsys):
    """The one line that a refused command prints, after checking that it left no trace."""
    before = snapshot(Path.cwd())
    capsys.readouterr()
    try:
        found = cli.main([str(word) for word in argv])
    except SystemExit as leaving:  # argparse's way
        found = leaving.code
    out, err = capsys.readouterr()
    assert found == code, (out, err)
    assert err.count("\n") == 1 and err.endswith("\n"), err
    assert re.match(r"scratchgen[a-z ]*: error: \S", err), err
    assert snapshot(Path.cwd()) == before
    return err.partition(": error: ")[2].rstrip("\n")


def process(*words, **options):
    """The finished process of `python -m scratchgen WORDS`."""
    return subprocess.run([sys.executable, "-m", "scratchgen", *words], capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, **options)
