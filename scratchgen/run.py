"""Floor 5: what a run leaves on disk, and how it survives being killed.

    config.json      what was asked for: the model, its data and its options
    metrics.jsonl    one object per epoch
    checkpoint.npz   everything needed to go on: no pickle, no wall-clock
    *.png            pictures

A file is written beside its final name and moved there in one step, so that a killed run leaves
the previous version whole. The metrics line of an epoch is written before its checkpoint; a
resumed run cuts metrics.jsonl back to the epoch that its checkpoint holds.
"""

import contextlib
import io
import json
import os
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np


# What reading an .npz file raises when it is cut short, altered, pickled, or no .npz file at all.
_DAMAGE = (OSError, ValueError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error,
           tokenize.TokenError)


class RunError(RuntimeError):
    """A run folder that cannot be used; the message says which, why and what to do."""


class RunExistsError(RunError):
    """The folder already holds a run."""


@contextlib.contextmanager
def errors_named(path, action):
    """Turn an OSError (no permission, disk full) into a RunError that names the path."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot {action} {path}: {error.strerror or error}") from error


def write_atomically(path, content):
    """Write bytes to `path` so that it holds the old content or the new, never a part."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    with errors_named(path, "write"):
        try:
            with open(partial, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


class Run:
    """One run folder."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.config_path = self.folder / "config.json"
        self.metrics_path = self.folder / "metrics.jsonl"
        self.checkpoint_path = self.folder / "checkpoint.npz"

    def exists(self):
        """Whether the folder holds a run."""
        return self.config_path.exists()

    def create(self, config):
        """Start a run: make the folder and write config.json. RunExistsError if there is one."""
        if self.exists():
            raise RunExistsError(f"{self.folder} already holds a run: continue it with --resume, "
                                 "or choose another --out")
        with errors_named(self.folder, "make"):
            self.folder.mkdir(parents=True, exist_ok=True)
        self.write_config(config)

    def write_config(self, config):
        """Write the dict of options as config.json."""
        write_atomically(self.config_path, json.dumps(config, indent=2).encode() + b"\n")

    def config(self):
        """The dict that `write_config` wrote."""
        if not self.exists():
            raise RunError(f"{self.folder} holds no run: there is no config.json in it")
        try:
            config = json.loads(self.config_path.read_text())
            if not isinstance(config, dict) or "model" not in config:
                raise ValueError("it names no model")
        except (ValueError, OSError) as error:
            raise RunError(f"{self.config_path} cannot be read: {error}") from error
        return config

    def save_checkpoint(self, arrays):
        """Write a dict of arrays and strings as checkpoint.npz, in one step."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_atomically(self.checkpoint_path, buffer.getvalue())

    def load_checkpoint(self):
        """The dict that `save_checkpoint` wrote, or None if there is none yet."""
        if not self.checkpoint_path.exists():
            return None
        try:
            with (open(self.checkpoint_path, "rb") as file,  # np.load leaves a bad one open
                  np.load(file, allow_pickle=False) as archive):
                arrays = {name: archive[name] for name in archive.files}
                bad = archive.zip.testzip()  # reading less than all of a part checks nothing
            foreign = [name for name, x in arrays.items() if not isinstance(x, np.ndarray)]
            if bad or foreign:
                raise ValueError(f"wrong checksum of {bad}" if bad else f"{foreign[0]} is no array")
            return arrays
        except _DAMAGE as error:
            raise RunError(f"{self.checkpoint_path} is damaged or no checkpoint ({error}): "
                           "restore it, or train again into another --out") from error

    def append_metrics(self, record):
        """Add one epoch to metrics.jsonl and flush it to disk."""
        with errors_named(self.metrics_path, "write"), open(self.metrics_path, "a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def metrics(self):
        """The epochs on record, a list of dicts, up to the first line that was cut short."""
        if not self.metrics_path.exists():
            return []
        records = []
        for line in self.metrics_path.read_text(errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                break
            if not isinstance(record, dict) or "epoch" not in record:
                break
            records.append(record)
        return records

    def cut_metrics(self, epochs):
        """Drop the records after the given epoch: what a killed run wrote past its checkpoint."""
        kept = [record for record in self.metrics() if record["epoch"] <= epochs]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_atomically(self.metrics_path, text.encode())
