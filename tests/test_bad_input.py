"""Bad input: one line on stderr, exit 2 for wrong usage and 1 for failure, nothing half-written."""

import errno
import gzip
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from command_helpers import ROOT, TINY, change_checkpoint, complaint, process, train_both
from dataset_helpers import idx_bytes
from scratchgen import cli
from scratchgen.datasets.sources import REGISTRY

MNIST_FILES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz",
               "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with two finished runs, "vae" and "autoencoder"."""
    return train_both(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def runs(trained, tmp_path, monkeypatch):
    """A copy of the two runs that a test may damage, as the working folder."""
    monkeypatch.delenv("SCRATCHGEN_DATA", raising=False)
    shutil.copytree(trained, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    return tmp_path / "runs"


# ------------------------------------------------------------------------------ wrong usage

USAGE = [
    ("", "the following arguments are required: COMMAND; see scratchgen --help"),
    ("fly", "argument COMMAND: invalid choice: 'fly'"),
    ("--fly", "the following arguments are required: COMMAND"),
    ("train", "the following arguments are required: MODEL; see scratchgen train --help"),
    ("train gan", "argument MODEL: invalid choice: 'gan'"),
    ("train vae --fly", "unrecognized arguments: --fly"),
    ("train vae extra", "unrecognized arguments: extra"),
    ("train vae --dataset cifar", "--dataset cifar: choose one of digits, coloured-digits, "),
    ("train vae --backend torch", "--backend torch: choose one of numpy, cupy"),
    ("train vae --binarize sometimes", "--binarize sometimes: choose one of threshold, fixed, dyn"),
    ("train vae --likelihood poisson", "--likelihood poisson: choose one of bernoulli, gaussian"),
    ("train vae --optimizer newton", "--optimizer newton: choose one of sgd, rmsprop, adam"),
    ("train vae --dtype float16", "--dtype float16: choose one of float32, float64"),
    ("train vae --activation step", "--activation step: choose one of tanh, relu"),
    ("train vae --posterior cauchy", "--posterior cauchy: choose one of normal, laplace"),
    ("train vae --decoder-std huge", "--decoder-std huge: choose one of fixed, shared, pixel, net"),
    ("train vae --kl open", "--kl open: choose one of closed, monte-carlo"),
    ("train autoencoder --beta 2", "unrecognized arguments: --beta 2"),
    ("train autoencoder --likelihood gaussian", "--likelihood gaussian: choose one of mse, bern"),
    ("train vae --epochs", "argument --epochs: expected one argument"),
    ("train vae --epochs many", "argument --epochs: invalid int value: 'many'"),
    ("train vae --epochs 2.5", "argument --epochs: invalid int value: '2.5'"),
    ("train vae --epochs 0", "--epochs must be at least 1, not 0"),
    ("train vae --epochs -3", "--epochs must be at least 1, not -3"),
    ("train vae --epochs 1000000000000", "--epochs must be at most 1,000,000,000, not 10000000"),
    ("train vae --batch-size 0", "--batch-size must be at least 1, not 0"),
    ("train vae --batch-size -50", "--batch-size must be at least 1, not -50"),
    ("train vae --hidden -3", "--hidden must be at least 1, not -3"),
    ("train vae --hidden 500 0", "--hidden must be at least 1, not 0"),
    ("train vae --hidden 9 99999999999999999999", "--hidden must be at most 1,000,000, not 9999"),
    ("train vae --hidden wide", "argument --hidden: invalid int value: 'wide'"),
    ("train vae --latent 0", "--latent must be at least 1, not 0"),
    ("train vae --latent -1", "--latent must be at least 1, not -1"),
    ("train vae --latent 1000001", "--latent must be at most 1,000,000, not 1000001"),
    ("train vae --seed -1", "--seed must be at least 0, not -1"),
    ("train vae --seed x", "argument --seed: invalid int value: 'x'"),
    ("train vae --lr nan", "--lr must be a finite number, not nan"),
    ("train vae --lr inf", "--lr must be a finite number, not inf"),
    ("train vae --lr 1e999", "--lr must be a finite number, not inf"),
    ("train vae --lr=-inf", "--lr must be a finite number, not -inf"),
    ("train vae --lr 0", "--lr must be above 0, not 0.0"),
    ("train vae --lr -0.1", "--lr must be above 0, not -0.1"),
    ("train vae --lr fast", "argument --lr: invalid float value: 'fast'"),
    ("train vae --max-grad-norm 0", "--max-grad-norm must be above 0, not 0.0"),
    ("train vae --max-grad-norm nan", "--max-grad-norm must be a finite number, not nan"),
    ("train vae --beta -1", "--beta must be at least 0, not -1.0"),
    ("train vae --beta nan", "--beta must be a finite number, not nan"),
    ("train vae --likelihood gaussian --binarize fixed",
     "--binarize fixed does not go with the other options: this model needs dequantized pixels"),
    ("train autoencoder --binarize threshold",
     "--binarize threshold does not go with the other options: this model needs grey pixels"),
    ("train vae --binarize none",
     "--binarize none: digits has 17 grey levels: choose threshold, fixed or dynamic"),
    ("train vae --dataset frey-face",
     r"this model needs binary pixels, frey-face \(dequantized\) has none: give "
     "--binarize threshold, fixed or dynamic"),
    ("train vae --dataset binarized-mnist --likelihood gaussian",
     "binarized-mnist was published as zeros and ones, it has no grey levels: choose a model "
     "of binary pixels and leave --binarize out"),
    ("train vae --dataset binarized-mnist --binarize dynamic",
     "binarized-mnist was published as zeros and ones"),
    ("evaluate", "the following arguments are required: RUN"),
    ("evaluate vae --iw-samples 0", "argument --iw-samples: must be at least 1, not 0"),
    ("evaluate vae --iw-samples -5", "argument --iw-samples: must be at least 1, not -5"),
    ("evaluate vae --iw-samples some", "argument --iw-samples: must be a whole number, not 'some'"),
    ("evaluate vae --iw-samples 5 --examples 0", "argument --examples: must be at least 1, not 0"),
    ("evaluate vae --examples 5", "--examples goes with --iw-samples"),
    ("evaluate vae --backend torch", "argument --backend: invalid choice: 'torch'"),
    ("evaluate autoencoder --iw-samples 5",
     "--iw-samples: autoencoder has no latent distribution"),
    ("sample vae -n 0", "argument -n: must be at least 1, not 0"),
    ("sample vae -n -64", "argument -n: must be at least 1, not -64"),
    ("sample vae -n 1.5", "argument -n: must be a whole number, not '1.5'"),
    ("sample vae -n 1000000000000000000", "argument -n: must be at most 10,000, not 1000000000"),
    ("reconstruct vae -n 10001", "argument -n: must be at most 10,000, not 10001"),
    ("sample vae --seed -1", "argument --seed: must be at least 0, not -1"),
    ("sample vae --out picture.jpg", "argument --out: must name a .png file, not 'picture.jpg'"),
    ("reconstruct vae -n 0", "argument -n: must be at least 1, not 0"),
    ("reconstruct vae --out .", "argument --out: must name a .png file, not '.'"),
    ("gradcheck --backend torch", "argument --backend: invalid choice: 'torch'"),
]


@pytest.mark.parametrize("command, pattern", USAGE, ids=[command for command, _ in USAGE])
def test_wrong_usage(runs, capsys, command, pattern):
    options = ["--out", "new"] if command.startswith("train ") and "gan" not in command else []
    assert re.match(pattern, complaint(command.split() + options, 2, capsys))


@pytest.mark.parametrize("word", ["--fly\nhigh", "line\nbreak"])
def test_a_line_break_in_an_argument_stays_one_line(runs, capsys, word):
    complaint(["train", "vae", "--out", "new", word], 2, capsys)
    complaint(["train", "vae", "--out", "new", "--dataset", word.replace("--", "")], 2, capsys)


def test_a_size_that_does_not_fit_into_memory(runs):
    limited = ("import resource, sys; from scratchgen.cli import main; "
               "resource.setrlimit(resource.RLIMIT_AS, (2 ** 32, 2 ** 32)); sys.exit(main())")
    done = subprocess.run(
        [sys.executable, "-c", limited, "train", "vae", "--hidden", "1000", "1000000",
         "--out", "new"], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"})
    assert done.returncode == 1
    assert re.fullmatch(r"scratchgen: error: Unable to allocate .*\n", done.stderr)
    assert not (runs / "new").exists()


# ------------------------------------------------------------------------------ no device


def test_cupy_that_is_not_installed(runs, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    for command in (["train", "vae", "--out", "new"], ["evaluate", "vae"], ["sample", "vae"],
                    ["reconstruct", "vae"], ["gradcheck"]):
        message = complaint([*command, "--backend", "cupy"], 1, capsys)
        assert re.match("backend cupy: CuPy .*pip install .*use --backend numpy$", message)


@pytest.mark.parametrize("answer", [0, RuntimeError("cudaErrorNoDevice: no CUDA-capable device")])
def test_cupy_without_a_device(runs, capsys, monkeypatch, answer):
    def count():
        if isinstance(answer, Exception):
            raise answer
        return answer

    cupy = ModuleType("cupy")
    cupy.ndarray = type("ndarray", (), {})
    cupy.cuda = SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=count,
                                                        CUDARuntimeError=RuntimeError))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    message = complaint(["train", "vae", "--backend", "cupy", "--out", "new"], 1, capsys)
    assert re.match("backend cupy: .*no (CUDA )?device.*; use --backend numpy$", message)


# ----------------------------------------------------------------------------------- data


def mnist_folder(folder, **replaced):
    """Files of the right sizes, all zero and quickly written, some of them replaced."""
    (folder / "mnist").mkdir(parents=True)
    shapes = [(60000, 28, 28), (60000,), (10000, 28, 28), (10000,)]
    for name, shape in zip(MNIST_FILES, shapes):
        content = replaced.get(name.partition("-idx")[0].replace("-", "_"))
        if content is None:
            content = gzip.compress(idx_bytes(np.zeros(shape, np.uint8)), compresslevel=1, mtime=0)
        if content:
            (folder / "mnist" / name).write_bytes(content)


def small(shape):
    return gzip.compress(idx_bytes(np.zeros(shape, np.uint8)), mtime=0)


FAULTS = {
    "missing": ({"t10k_images": b""}, r"t10k-images-idx3-ubyte.gz is missing: put the published"),
    "empty": ({"train_images": b"\n"}, "train-images-idx3-ubyte.gz: not an IDX file of unsigned"),
    "gzip cut short": ({"train_images": small((9, 28, 28))[:40]},
                       "train-images-idx3-ubyte.gz: the gzip file is cut short; get it again"),
    "gzip damaged": ({"train_labels": b"\x1f\x8b" + b"0" * 50},
                     r"train-labels-idx1-ubyte.gz: the gzip file is damaged"),
    "values cut short": ({"train_images": gzip.compress(idx_bytes(
        np.zeros((9, 28, 28), np.uint8))[:-5])},
        "train-images-idx3-ubyte.gz: cut short: its header promises 9 x 28 x 28 values, 7072 bytes "
        "in all, but it holds 7067"),
    "header cut short": ({"train_images": idx_bytes(np.zeros((9, 28, 28), np.uint8))[:10]},
                         "train-images-idx3-ubyte.gz: cut short inside the header, after 10 of 16"),
    "wrong magic": ({"t10k_labels": b"\x00\x00\x0d\x01" + bytes(100)},
                    "t10k-labels-idx1-ubyte.gz: not an IDX file of unsigned bytes: it starts with "
                    "00000d01"),
    "fewer labels than images": ({"train_labels": small((59999,))},
                                 "train-images-idx3-ubyte.gz: 60000 images, but .*train-labels-idx1"
                                 "-ubyte.gz holds 59999 labels"),
    "other sizes": ({"t10k_images": small((10000, 5, 5))},
                    r"t10k-images-idx3-ubyte.gz: images: found uint8 of shape \(10000, 5, 5\), "
                    r"expected uint8 of shape \(10000, 28, 28\)"),
    "wrong checksum": ({}, "train-images-idx3-ubyte.gz: wrong checksum: expected SHA-256 440fcabf"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_an_idx_file_is_named(runs, capsys, fault):
    replaced, pattern = FAULTS[fault]
    mnist_folder(runs / "data", **replaced)
    message = complaint(["train", "vae", "--dataset", "mnist", "--data-dir", "data", *TINY,
                         "--out", "new"], 1, capsys)
    assert re.match(f"data/mnist/{pattern}", message), message


def test_a_data_folder_that_is_not_there(runs, capsys, monkeypatch):
    command = ["train", "vae", "--dataset", "mnist", "--out", "new"]
    message = complaint([*command, "--data-dir", "nowhere"], 1, capsys)
    assert message.startswith("--data-dir names nowhere, which is not a folder: name the one that")
    message = complaint(["datasets", "--data-dir", "vae/config.json"], 1, capsys)
    assert message.startswith("--data-dir names vae/config.json, which is not a folder")
    monkeypatch.setenv("SCRATCHGEN_DATA", str(runs / "gone"))
    assert complaint(command, 1, capsys).startswith(f"SCRATCHGEN_DATA names {runs}/gone, which is")


@pytest.mark.parametrize("name", [name for name in REGISTRY if not REGISTRY[name].embedded])
def test_an_empty_data_folder_names_the_missing_file(runs, capsys, name):
    (runs / "data").mkdir()
    options = ["--likelihood", "gaussian"] if name == "frey-face" else []
    message = complaint(["train", "vae", "--dataset", name, "--data-dir", "data", *options,
                         "--out", "new"], 1, capsys)
    file = next(iter(REGISTRY[name].layouts[0].files))
    assert message.startswith(f"data/{name}/{file} is missing: put the published file there")


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.5])
def test_images_that_are_no_whole_numbers(runs, capsys, value):
    (runs / "data" / "frey-face").mkdir(parents=True)
    images = np.zeros((1965, 28, 20), dtype=np.float32)
    images[3, 4, 5] = value
    np.savez_compressed(runs / "data" / "frey-face" / "frey_rawface.npz", images=images)
    message = complaint(["train", "vae", "--dataset", "frey-face", "--likelihood", "gaussian",
                         "--data-dir", "data", "--out", "new"], 1, capsys)
    assert message == ("data/frey-face/frey_rawface.npz: images: found float32 of shape "
                       "(1965, 28, 20), expected uint8 of shape (1965, 28, 20)")


def test_a_model_whose_parameters_are_nan_is_not_trained_on(runs, capsys):
    change_checkpoint(runs / "vae", lambda arrays: {
        name: np.full_like(x, np.nan) if name.startswith("model/") else x
        for name, x in arrays.items()})
    before = (runs / "vae" / "checkpoint.npz").read_bytes()
    assert cli.main(["train", "vae", "--out", "vae", "--resume", "--epochs", "5"]) == 1
    err = capsys.readouterr().err
    assert err == ("scratchgen: error: the loss of player model became nan at step 10 (epoch 3); "
                   "the last good checkpoint is epoch 2 in vae; train into another --out with a "
                   "smaller --lr\n")
    assert (runs / "vae" / "checkpoint.npz").read_bytes() == before


def test_a_learning_rate_that_explodes(runs, capsys):
    assert cli.main(["train", "vae", *TINY, "--lr", "1e30", "--out", "new"]) == 1
    err = capsys.readouterr().err
    assert re.fullmatch(r"scratchgen: error: the loss of player model became (nan|inf) at step 1 "
                        r"\(epoch 1\); no checkpoint was written yet; train into another --out "
                        r"with a smaller --lr\n", err)
    assert sorted(path.name for path in (runs / "new").iterdir()) == ["config.json",
                                                                      "metrics.jsonl"]


# ------------------------------------------------------------------------ where it writes


def test_a_folder_that_already_holds_a_run(runs, capsys):
    message = complaint(["train", "vae", *TINY, "--out", "vae"], 2, capsys)
    assert message == ("vae already holds a run: continue it with --resume, or choose another "
                       "--out")
    missing = ["--dataset", "mnist", "--data-dir", "nowhere"]  # refused before data are read
    assert complaint(["train", "vae", *missing, "--out", "vae"], 2, capsys) == message


def test_an_output_that_is_a_file_or_below_one(runs, capsys):
    (runs / "file").write_text("mine")
    message = complaint(["train", "vae", *TINY, "--out", "file"], 1, capsys)
    assert message == "cannot make file: File exists"
    message = complaint(["train", "vae", *TINY, "--out", "file/run"], 1, capsys)
    assert message == "cannot make file/run: Not a directory"
    for command in ("sample", "reconstruct"):
        message = complaint([command, "vae", "--out", "file/new.png"], 1, capsys)
        assert message == "cannot write file/new.png: Not a directory"
        message = complaint([command, "vae", "--out", "missing/new.png"], 1, capsys)
        assert message == "cannot write missing/new.png: No such file or directory"


def test_an_output_that_may_not_be_written(runs, capsys, monkeypatch):
    def refuse(path, mode="r", *args, **kwargs):  # permissions do not stop the superuser
        if mode == "rb":
            return open(path, mode)
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("scratchgen.run.open", refuse, raising=False)
    message = complaint(["sample", "vae"], 1, capsys)
    assert message == "cannot write vae/samples.png: Permission denied"
    monkeypatch.setattr(Path, "mkdir", refuse)
    message = complaint(["train", "vae", *TINY, "--out", "new"], 1, capsys)
    assert message == "cannot make new: Permission denied"


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop the superuser")
def test_a_folder_without_permission(runs, capsys):
    (runs / "locked").mkdir(mode=0o500)
    message = complaint(["train", "vae", *TINY, "--out", "locked"], 1, capsys)
    assert message == "cannot write locked/config.json: Permission denied"


def test_a_disk_that_fills_up_while_training(runs, capsys, monkeypatch):
    fsync = os.fsync
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 6:  # config, metrics cut, then a line and a checkpoint each epoch
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert cli.main(["train", "vae", *TINY, "--out", "new"]) == 1
    assert capsys.readouterr().err == ("scratchgen: error: cannot write new/checkpoint.npz: No "
                                       "space left on device\n")
    with np.load("new/checkpoint.npz") as archive:
        assert archive["epoch"] == 1
    assert sorted(path.name for path in (runs / "new").iterdir()) == [
        "checkpoint.npz", "config.json", "metrics.jsonl"]


# --------------------------------------------------------------------- traceback, interrupt


@pytest.mark.parametrize("command", [
    ["--debug", "train", "vae", "--epochs", "0", "--out", "new"],
    ["train", "--debug", "vae", "--epochs", "0", "--out", "new"],
    ["train", "vae", "--epochs", "0", "--out", "new", "--debug"],
    ["evaluate", "nowhere", "--debug"],
    ["--debug", "evaluate", "nowhere"]])
def test_debug_shows_the_traceback_wherever_it_stands(runs, command):
    done = process(*command)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert re.search(r"\nscratchgen\.\S+Error: .*\n$", done.stderr)
    assert not (runs / "new").exists()


@pytest.mark.parametrize("command, code", [
    (["train", "vae", "--epochs", "0"], 2), (["train", "gan"], 2), (["evaluate", "nowhere"], 1)])
def test_the_exit_code_of_a_process(runs, command, code):
    done = process(*command)
    assert done.returncode == code
    assert done.stdout == ""
    assert re.fullmatch(r"scratchgen[a-z ]*: error: .*\n", done.stderr)


def test_an_interrupt_says_how_to_go_on(runs, capsys, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("scratchgen.run.Run.append_metrics", interrupted)
    assert cli.main(["train", "vae", *TINY, "--out", "new"]) == 130
    assert capsys.readouterr().err == ("scratchgen: interrupted; a run goes on with --resume\n")
