"""Runs that cannot be used: contradicted, damaged, or another model's. One line each, as bad input.
"""

import json
import pickle
import shutil

import numpy as np
import pytest

from command_helpers import change_checkpoint, complaint, train_both


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


# -------------------------------------------------------------- resuming what does not fit


@pytest.mark.parametrize("options, message", [
    (["--latent", "3"], "--resume: --latent 3 contradicts the run in vae, which has 2: leave the "
     "option out"),
    (["--hidden", "8", "8"], "--resume: --hidden [8, 8] contradicts the run in vae, which has "
     "[8]: leave the option out"),
    (["--epochs", "1"], "--resume: --epochs 1 contradicts the run in vae, which has 2: leave the "
     "option out"),
    (["--lr", "0.5"], "--resume: --lr 0.5 contradicts the run in vae, which has 0.001: leave the "
     "option out"),
    (["--seed", "1"], "--resume: --seed 1 contradicts the run in vae, which has 0: leave the "
     "option out"),
    (["--optimizer", "sgd"], "--resume: --optimizer sgd contradicts the run in vae, which has "
     "adam: leave the option out"),
    (["--binarize", "fixed"], "--resume: --binarize fixed contradicts the run in vae, which has "
     "None: leave the option out"),
    (["--latent", "0"], "--latent must be at least 1, not 0"),
])
def test_resuming_with_other_options(runs, capsys, options, message):
    assert complaint(["train", "vae", "--out", "vae", "--resume", *options], 2, capsys) == message


def test_resuming_as_another_model(runs, capsys):
    message = complaint(["train", "autoencoder", "--out", "vae", "--resume"], 2, capsys)
    assert message == "vae holds a run of vae, not of autoencoder"


# ---------------------------------------------------------------------- folders and files

COMMANDS = [["evaluate"], ["sample"], ["reconstruct"]]
ALL_COMMANDS = [*COMMANDS, ["train", "vae", "--resume", "--out"]]


def change_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_is_no_run(runs, capsys, command):
    (runs / "empty").mkdir()
    for folder in ("empty", "nowhere", "vae/config.json"):
        message = complaint([*command, folder], 1, capsys)
        assert message == f"{folder} holds no run: there is no config.json in it"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_without_a_checkpoint(runs, capsys, command):
    (runs / "vae" / "checkpoint.npz").unlink()
    message = complaint([*command, "vae"], 1, capsys)
    assert message == "vae has no checkpoint yet: train it with --resume"


@pytest.mark.parametrize("command", ALL_COMMANDS)
def test_a_checkpoint_that_cannot_be_trusted(runs, capsys, command):
    path = runs / "vae" / "checkpoint.npz"
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[:len(whole) // 2], whole[:-1], pickle.dumps([1])):
        path.write_bytes(content)
        message = complaint([*command, "vae"], 1, capsys)
        assert message.startswith("vae/checkpoint.npz is damaged or no checkpoint (")
    path.write_bytes(whole)
    change_checkpoint(runs / "vae", lambda arrays: arrays | {
        "step": np.array([{"an": "object"}], dtype=object)})
    message = complaint([*command, "vae"], 1, capsys)
    assert "Object arrays cannot be loaded when allow_pickle=False" in message


@pytest.mark.parametrize("command", ALL_COMMANDS)
def test_a_checkpoint_of_another_model(runs, capsys, command):
    shutil.copy(runs / "autoencoder" / "checkpoint.npz", runs / "vae" / "checkpoint.npz")
    message = complaint([*command, "vae"], 1, capsys)
    assert message.startswith("vae/checkpoint.npz does not belong to this run: ")


@pytest.mark.parametrize("command", ALL_COMMANDS)
@pytest.mark.parametrize("change", [
    lambda arrays: {"a": np.zeros(3)},
    lambda arrays: arrays | {"format": np.array(99)},
    lambda arrays: arrays | {"format": np.array([1, 1])},
    lambda arrays: {name: x for name, x in arrays.items() if not name.startswith("best/")},
    lambda arrays: {name: x[..., :1] if name.startswith("best/") else x
                    for name, x in arrays.items()},
    lambda arrays: {name: x.astype(np.float64) if name.startswith("best/") else x
                    for name, x in arrays.items()}])
def test_a_checkpoint_with_wrong_parts(runs, capsys, command, change):
    change_checkpoint(runs / "vae", change)
    message = complaint([*command, "vae"], 1, capsys)
    assert message.startswith("vae/checkpoint.npz does not belong to this run: ")


@pytest.mark.parametrize("part", ["epoch", "step", "generator", "model/encoder.layers.0.weight",
                                  "optimizer/model/m.0", "optimizer/model/steps", "best_valid"])
def test_a_checkpoint_that_lacks_what_training_needs(runs, capsys, part):
    change_checkpoint(runs / "vae", lambda arrays: {name: x for name, x in arrays.items()
                                                    if name != part})
    message = complaint(["train", "vae", "--resume", "--out", "vae"], 1, capsys)
    assert message.startswith("vae/checkpoint.npz does not belong to this run: ")


@pytest.mark.parametrize("command", ALL_COMMANDS)
@pytest.mark.parametrize("content", ["", "{", "[]", '"vae"', "{}"])
def test_a_config_that_cannot_be_read(runs, capsys, command, content):
    (runs / "vae" / "config.json").write_text(content)
    message = complaint([*command, "vae"], 1, capsys)
    assert message.startswith("vae/config.json cannot be read: ")


@pytest.mark.parametrize("command", ALL_COMMANDS)
@pytest.mark.parametrize("values, reason", [
    ({"model": "gan"}, "unknown model 'gan': choose one of "),
    ({"model": ["vae"]}, ""),
    ({"latent": 0}, "--latent must be at least 1, not 0"),
    ({"latent": "2"}, "--latent must be of type int, not '2'"),
    ({"latent": None}, "--latent must be of type int, not None"),
    ({"hidden": 8}, ""),
    ({"hidden": [8.5]}, "--hidden must be of type int, not 8.5"),
    ({"lr": "fast"}, "--lr must be of type float, not 'fast'"),
    ({"lr": float("nan")}, "--lr must be a finite number, not nan"),
    ({"dataset": "cifar"}, "--dataset cifar: choose one of"),
    ({"dataset": None}, "--dataset must be of type str, not None")])
def test_a_config_with_a_wrong_value(runs, capsys, command, values, reason):
    change_config(runs / "vae", **values)
    message = complaint([*command, "vae"], 1, capsys)
    assert message.startswith(f"vae/config.json does not fit this version: {reason}")


@pytest.mark.parametrize("command", ALL_COMMANDS)
def test_a_config_that_lacks_an_option(runs, capsys, command):
    path = runs / "vae" / "config.json"
    config = json.loads(path.read_text())
    del config["epochs"]
    path.write_text(json.dumps(config))
    message = complaint([*command, "vae"], 1, capsys)
    assert message == "vae/config.json does not fit this version: it lacks epochs"


def test_an_autoencoder_has_no_samples(runs, capsys):
    message = complaint(["sample", "autoencoder"], 1, capsys)
    assert message == ("an autoencoder has no distribution over codes to sample from: train a vae, "
                       "or look at reconstruct")
