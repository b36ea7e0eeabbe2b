"""A run killed at any moment goes on with --resume to the same bits as one that was never stopped.

Two ways to die: SIGKILL at random moments, on processes that are forked from one with everything
imported (so that many fit into seconds) and on a few whole ones; and a crash at every single step
of every write, one after the other, inside this process.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from scratchgen import cli, commands, datasets
from scratchgen.backend import generator
from scratchgen.models.vae import VAE
from scratchgen.run import Run
from scratchgen.train import Trainer

ROOT = Path(__file__).resolve().parents[1]
# The same number of threads for all: another one may add up in another order.
ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
               "PYTHONPATH": str(ROOT)}

# Runs the commands it reads, each in a process of its own, and kills it after so many seconds.
FORKER = """
import json, os, signal, sys, time
import matplotlib.backends.backend_agg
from scratchgen import cli, plots

for line in sys.stdin:
    argv, seconds = json.loads(line)
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(cli.main(argv))
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

SMALL = ["--hidden", "16", "--epochs", "12"]
VAE_RUN = ["train", "vae", *SMALL, "--latent", "2", "--binarize", "dynamic"]
RUNS = {
    "vae-adam-dynamic": VAE_RUN,
    "vae-sgd-laplace": ["train", "vae", *SMALL, "--optimizer", "sgd", "--posterior", "laplace"],
    "vae-rmsprop-gaussian": ["train", "vae", *SMALL, "--optimizer", "rmsprop", "--likelihood",
                             "gaussian", "--decoder-std", "network", "--max-grad-norm", "100"],
    "autoencoder-adam-mse": ["train", "autoencoder", *SMALL],
    "autoencoder-sgd-fixed": ["train", "autoencoder", *SMALL, "--optimizer", "sgd", "--likelihood",
                              "bernoulli", "--binarize", "fixed", "--dtype", "float64"],
    "autoencoder-rmsprop-dynamic": ["train", "autoencoder", *SMALL, "--optimizer", "rmsprop",
                                    "--likelihood", "bernoulli", "--binarize", "dynamic"],
}


class Forker:
    """`run(argv, seconds)`: the exit code of a command, killed after `seconds` if given."""

    def __init__(self):
        self.process = subprocess.Popen([sys.executable, "-c", FORKER], env=ENVIRONMENT, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(self, argv, seconds=None):
        self.process.stdin.write(json.dumps([argv, seconds]) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait() == 0


@pytest.fixture(scope="module")
def forker():
    """One process with everything imported, for all tests of this file."""
    made = Forker()
    yield made
    made.close()


@pytest.fixture(scope="module")
def reference(forker, tmp_path_factory):
    """The folder of a VAE_RUN that nobody stopped, and its seconds of training."""
    return uninterrupted(forker, VAE_RUN, tmp_path_factory.mktemp("reference") / "run")


def uninterrupted(forker, argv, folder):
    assert forker.run([*argv, "--out", str(folder)]) == 0
    return folder, Run(folder).metrics()[-1]["seconds"]


def records(folder):
    """The metrics without their seconds, the one thing that may differ."""
    kept = Run(folder).metrics()
    for record in kept:
        del record["seconds"]
    return kept


def assert_same_run(folder, reference):
    """Every array, every byte of the checkpoint, every metric and every picture."""
    arrays, expected = Run(folder).load_checkpoint(), Run(reference).load_checkpoint()
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].tobytes() == array.tobytes(), name
    assert records(folder) == records(reference)
    names = {path.name for path in reference.iterdir()}
    assert {path.name for path in folder.iterdir()} == names
    assert timeless(folder / "figures.json") == timeless(reference / "figures.json")
    for name in names - {"metrics.jsonl", "figures.json"}:
        assert (folder / name).read_bytes() == (reference / name).read_bytes(), name


def timeless(path):
    """figures.json without the two entries that a clock decides; None before it is written."""
    if not path.exists():
        return None
    figures = json.loads(path.read_text())
    del figures["seconds"], figures["sample_ms"]
    return figures


def assert_whole(folder):
    """What a killed run leaves can be read; the epoch that it can go on from, 0 for none."""
    run = Run(folder)
    if run.exists():
        assert run.config()["model"]
    arrays = run.load_checkpoint()
    epoch = 0 if arrays is None else int(arrays["epoch"])
    assert len(run.metrics()) >= epoch
    return epoch


def kill_and_resume(forker, argv, folder, seconds, kills, rng):
    """Kill a run so many times at moments drawn uniformly, then let it end. The epochs reached."""
    argv = [*argv, "--resume", "--out", str(folder)]
    span = 0.05 + seconds / 4  # about ten of these get through `seconds` of training
    epochs = [0]
    for _ in range(kills):
        assert forker.run(argv, rng.uniform(0, span)) == -signal.SIGKILL
        epochs.append(assert_whole(folder))
        assert epochs[-1] >= epochs[-2]
        if epochs[-1] == 0:
            span *= 1.5  # a slow machine is still busy starting
    assert epochs[-1] > 0
    assert forker.run(argv) == 0
    print(f"killed with checkpoints of epochs {epochs[1:]}")


# -------------------------------------------------------------------- killed at random times


def test_killed_ten_times(forker, reference, tmp_path):
    folder, seconds = reference
    kill_and_resume(forker, VAE_RUN, tmp_path / "run", seconds, 10, np.random.default_rng(1))
    assert_same_run(tmp_path / "run", folder)


def test_a_whole_process_killed_while_it_starts_and_while_it_trains(reference, tmp_path):
    folder, seconds = reference
    run = Run(tmp_path / "run")
    command = [sys.executable, "-m", "scratchgen", *VAE_RUN, "--resume", "--out", str(run.folder)]
    for wanted in (run.folder, run.metrics_path, run.checkpoint_path):
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        while not wanted.exists() and process.poll() is None:
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert_whole(run.folder)
    finished = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert_same_run(run.folder, folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_killed_many_times_at_any_moment(forker, tmp_path, name):
    folder, seconds = uninterrupted(forker, RUNS[name], tmp_path / "reference")
    rng = np.random.default_rng(sorted(RUNS).index(name))
    kills = 12  # of each of six runs
    kill_and_resume(forker, RUNS[name], tmp_path / "run", seconds, kills, rng)
    assert_same_run(tmp_path / "run", folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae-adam-dynamic", "autoencoder-rmsprop-dynamic"])
def test_killed_once_from_start_to_end(forker, tmp_path, name):
    reference, _ = uninterrupted(forker, RUNS[name], tmp_path / "reference")
    start = time.perf_counter()
    uninterrupted(forker, RUNS[name], tmp_path / "timed")
    whole = time.perf_counter() - start  # with pictures
    rng = np.random.default_rng(0)
    for attempt in range(8):
        run = tmp_path / f"run{attempt}"
        argv = [*RUNS[name], "--resume", "--out", str(run)]
        forker.run(argv, rng.uniform(0, whole))
        assert forker.run(argv) == 0
        assert_same_run(run, reference)


# ------------------------------------------------------------- a crash at every step of a write


class Crash(BaseException):
    """Ends the process as far as the code under test can see: nothing handles it."""


EPOCHS = 3
WRITES = 2 + 3 * EPOCHS  # metrics.jsonl cut (2 steps), then a line (1) and a checkpoint (2) each


def trainer(folder, seed=0):
    """A Trainer of a small VAE on dynamic digits, going on where the folder's checkpoint is."""
    dataset = datasets.load("digits", encoding="dynamic")
    model = VAE(dataset.dim, generator(seed, "weights"), (9,), 3)
    run = Run(folder)
    if not run.exists():
        run.create({"model": "vae"})
    made = Trainer(model, dataset, run, batch_size=300, seed=seed)
    arrays = run.load_checkpoint()
    if arrays is not None:
        made.load_state(arrays)
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of three epochs without a crash."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    trainer(folder).train(EPOCHS)
    return folder


def crash_at(monkeypatch, number, before):
    """Crash before or after the given call of os.fsync or os.replace; returns their log."""
    log = []

    def watched(name, function):
        def watching(*args):
            log.append(name)
            if len(log) - 1 == number and before:
                raise Crash
            function(*args)
            if len(log) - 1 == number:
                raise Crash
        return watching

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, watched(name, getattr(os, name)))
    return log


def test_the_steps_of_all_writes(tmp_path, monkeypatch, whole):
    log = crash_at(monkeypatch, None, True)
    made = trainer(tmp_path / "run")
    log.clear()
    made.train(EPOCHS)
    assert log == ["fsync", "replace"] + ["fsync", "fsync", "replace"] * EPOCHS
    assert len(log) == WRITES
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("number", range(WRITES))
def test_a_crash_at_every_step_of_every_write(tmp_path, whole, number, before):
    made = trainer(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, number, before)
        with pytest.raises(Crash):
            made.train(EPOCHS)
    replaced = number - 1 if before else number  # the last call that took effect
    assert assert_whole(tmp_path / "run") == max(0, (replaced - 1) // 3)
    trainer(tmp_path / "run").train(EPOCHS)
    assert_same_run(tmp_path / "run", whole)


def test_a_crash_between_the_metrics_and_the_checkpoint(tmp_path, whole, monkeypatch):
    made = trainer(tmp_path / "run")
    made.train(1)
    before = made.run.checkpoint_path.read_bytes()

    def crash(arrays):
        raise Crash

    monkeypatch.setattr(made.run, "save_checkpoint", crash)
    with pytest.raises(Crash):
        made.train(EPOCHS)
    assert [record["epoch"] for record in made.run.metrics()] == [1, 2]
    assert made.run.checkpoint_path.read_bytes() == before
    trainer(tmp_path / "run").train(EPOCHS)
    assert_same_run(tmp_path / "run", whole)


def test_a_metrics_line_cut_short(tmp_path, whole):
    made = trainer(tmp_path / "run")
    made.train(2)
    with open(made.run.metrics_path, "a") as file:
        file.write('{"epoch": 3, "step": 12, "sec')
    trainer(tmp_path / "run").train(EPOCHS)
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize("content", [b"", b"half of a checkp"])
def test_leftovers_of_a_killed_write_do_no_harm(tmp_path, whole, content):
    made = trainer(tmp_path / "run")
    made.train(1)
    for name in (".checkpoint.npz.partial", ".metrics.jsonl.partial"):
        (tmp_path / "run" / name).write_bytes(content)
    trainer(tmp_path / "run").train(EPOCHS)
    assert_same_run(tmp_path / "run", whole)


# ------------------------------------------------------------------------- through the command


@pytest.fixture
def no_pictures(monkeypatch):
    """Pictures take most of the time of a small run and nothing here depends on them."""
    monkeypatch.setattr(commands.Pictures, "of_run", lambda *args: None)


def train(folder, *options):
    assert cli.main(["train", "vae", "--hidden", "9", "--latent", "3", "--batch-size", "300",
                     "--binarize", "dynamic", "--out", str(folder), *options]) == 0


def test_more_epochs_equal_a_longer_run(tmp_path, no_pictures):
    train(tmp_path / "long", "--epochs", "5")
    train(tmp_path / "grown", "--epochs", "2")
    train(tmp_path / "grown", "--epochs", "5", "--resume")
    assert_same_run(tmp_path / "grown", tmp_path / "long")


def test_a_run_asked_for_more_epochs_remembers_it(tmp_path, no_pictures, monkeypatch):
    train(tmp_path / "long", "--epochs", "5")
    train(tmp_path / "grown", "--epochs", "2")
    with monkeypatch.context() as patch:
        patch.setattr(Run, "append_metrics", lambda *args: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            train(tmp_path / "grown", "--epochs", "5", "--resume")
    train(tmp_path / "grown", "--resume")
    assert_same_run(tmp_path / "grown", tmp_path / "long")


def test_a_cosine_goes_on_where_it_was_and_does_not_grow(tmp_path, no_pictures, monkeypatch,
                                                         capsys):
    cosine = ["--lr-schedule", "cosine", "--epochs", "4"]
    train(tmp_path / "whole", *cosine)
    with monkeypatch.context() as patch:
        append = Run.append_metrics

        def crash_in_epoch_3(self, record):
            if record["epoch"] == 3:
                raise Crash
            append(self, record)

        patch.setattr(Run, "append_metrics", crash_in_epoch_3)
        with pytest.raises(Crash):
            train(tmp_path / "stopped", *cosine)
    train(tmp_path / "stopped", "--resume")
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")
    capsys.readouterr()
    with pytest.raises(AssertionError):
        train(tmp_path / "stopped", "--resume", "--epochs", "6")
    assert "--epochs 6 contradicts the run" in capsys.readouterr().err


def test_resuming_a_finished_run_changes_nothing(tmp_path, no_pictures, capsys):
    train(tmp_path / "once", "--epochs", "2")
    train(tmp_path / "twice", "--epochs", "2")
    capsys.readouterr()
    train(tmp_path / "twice", "--resume")
    assert "trained to epoch 2 before; best on validation: epoch 2" in capsys.readouterr().out
    assert_same_run(tmp_path / "twice", tmp_path / "once")


def test_resume_needs_no_run_to_resume(tmp_path, no_pictures):
    train(tmp_path / "plain", "--epochs", "2")
    train(tmp_path / "resumed", "--epochs", "2", "--resume")
    assert_same_run(tmp_path / "resumed", tmp_path / "plain")


def test_one_seed_gives_one_curve_and_another_another(tmp_path, no_pictures):
    for name, seed in [("one", "7"), ("again", "7"), ("other", "8")]:
        train(tmp_path / name, "--epochs", "3", "--seed", seed)
    assert_same_run(tmp_path / "again", tmp_path / "one")
    curves = [[record["train_nats"] for record in records(tmp_path / name)]
              for name in ("one", "other")]
    assert all(a != b for a, b in zip(*curves))


def test_a_lost_metrics_file_does_not_stop_the_run(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands.Pictures, "of_run", lambda *args: None)
        train(tmp_path / "run", "--epochs", "2")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    train(tmp_path / "run", "--resume")
    assert records(tmp_path / "run") == []
    assert not (tmp_path / "run" / "curves.png").exists()  # of nothing
    assert (tmp_path / "run" / "samples.png").exists()
