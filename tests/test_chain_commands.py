"""`train`, `complete` and `compare` with the chain-rule models, and what they refuse."""

import contextlib
import json

import numpy as np
import pytest
from command_helpers import assert_picture

from scratchgen import cli, pictures, plots

CHAIN = {"belief-net": [], "nade": ["--hidden", "5"],
         "made": ["--hidden", "7", "--masks", "2", "--order", "random"],
         "pixelrnn": ["--layers", "1", "--width", "4", "--first-kernel", "3", "--variant",
                      "diagonal"],
         "pixelcnn": ["--layers", "1", "--width", "4", "--first-kernel", "3", "--gated"]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of one epoch of every model, binary and with 17 levels, and of a VAE."""
    folder = tmp_path_factory.mktemp("runs")
    for model, options in CHAIN.items():
        for levels in ("2", "17"):
            assert cli.main(["train", model, *options, "--levels", levels, "--epochs", "1",
                             "--out", str(folder / f"{model}-{levels}")]) == 0
    assert cli.main(["train", "vae", "--hidden", "4", "--epochs", "1",
                     "--out", str(folder / "vae")]) == 0
    assert cli.main(["train", "autoencoder", "--hidden", "4", "--epochs", "1",
                     "--out", str(folder / "autoencoder")]) == 0
    return folder


@pytest.mark.parametrize("levels", ["2", "17"])
@pytest.mark.parametrize("model", CHAIN)
def test_a_run_leaves_exact_figures_and_pictures(runs, model, levels):
    folder = runs / f"{model}-{levels}"
    figures = json.loads((folder / "figures.json").read_text())
    assert figures["protocol"] == ("digits (threshold)" if levels == "2" else "digits (17 levels)")
    for split in figures["splits"].values():
        assert split["estimator"] == "exact"
        assert [row["estimator"] for row in split["baselines"]] == ["mixture of 10",
                                                                    "independent pixels"]
    assert figures["sample_ms"] > 0
    for name in ("samples", "completions", "curves"):
        assert_picture(folder / f"{name}.png")


@pytest.mark.parametrize("levels", ["2", "17"])
def test_coloured_digits(tmp_path, monkeypatch, levels):
    drawn = {}
    monkeypatch.setattr(plots, "image_grid",
                        lambda path, images, shape, *rest: drawn.update({path.stem: images}))
    assert cli.main(["train", "pixelrnn", *CHAIN["pixelrnn"], "--dataset", "coloured-digits",
                     "--levels", levels, "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    figures = json.loads((tmp_path / "run" / "figures.json").read_text())
    assert figures["protocol"].startswith("coloured-digits")
    rows = 1 - drawn["completions"].reshape(6, 16, 8, 8, 3)  # drawn light on dark
    for completed in rows[2:]:
        np.testing.assert_array_equal(completed[:, :4], rows[0][:, :4])
        assert (completed[:, 4:] != rows[0][:, 4:]).any()
    hidden = rows[1][:, 4:]
    np.testing.assert_allclose(hidden, 0.3, atol=1e-6)
    assert drawn["samples"].shape == (64, 192)


@pytest.mark.parametrize("model", CHAIN)
def test_progress_of_sampling_reaches_its_end(runs, monkeypatch, model):
    bars = []

    class Bar(contextlib.nullcontext):
        def __init__(self, total, label, unit):
            super().__init__(self)
            self.left = total
            bars.append(self)

        def update(self, n=1):
            self.left -= n

    monkeypatch.setattr(pictures, "bar", Bar)
    assert cli.main(["sample", str(runs / f"{model}-2"), "-n", "4"]) == 0
    assert cli.main(["complete", str(runs / f"{model}-2"), "-n", "4"]) == 0
    assert len(bars) == 2
    for bar in bars:
        assert abs(bar.left) < 1e-9


def test_compare_draws_the_models_side_by_side(runs, tmp_path, monkeypatch, capsys):
    drawn = {}
    monkeypatch.setattr(plots, "image_grid",
                        lambda path, images, shape, columns, title, labels:
                        drawn.update({path.name: (images.reshape(-1, columns, 64), labels)}))
    names = ["made-17", "pixelcnn-17", "vae", "autoencoder"]
    assert cli.main(["compare", *[str(runs / name) for name in names],
                     "--pictures", str(tmp_path / "new" / "folder")]) == 0
    assert (tmp_path / "new" / "folder").is_dir()
    assert capsys.readouterr().out.splitlines()[-3:] == [
        str(tmp_path / "new" / "folder" / name) for name in drawn]
    assert list(drawn) == ["digits-17-levels-samples.png", "digits-17-levels-completions.png",
                           "digits-threshold-samples.png"]  # an autoencoder has no samples
    samples, labels = drawn["digits-17-levels-samples.png"]
    assert (samples.shape, labels) == ((2, 16, 64), ["made-17", "pixelcnn-17"])
    assert (samples[0] != samples[1]).any()
    rows, labels = drawn["digits-17-levels-completions.png"]
    assert labels == ["data", "kept", "made-17", "pixelcnn-17"]
    for row in rows:
        np.testing.assert_array_equal(row[:, :32], rows[0][:, :32])
    np.testing.assert_allclose(rows[1][:, 32:], 0.3, rtol=1e-6)


def test_completions_show_the_kept_pixels(runs, tmp_path, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(plots, "image_grid", lambda path, images, *rest: drawn.append(images))
    hidden = np.zeros((8, 8), dtype=bool)
    hidden[2:, 3] = True
    np.save(tmp_path / "hidden.npy", hidden)
    run = str(runs / "nade-17")
    assert cli.main(["complete", run, "--occlude", str(tmp_path / "hidden.npy"), "-n", "5"]) == 0
    assert "approximate" in capsys.readouterr().out
    images = drawn[0].reshape(6, 5, 8, 8)
    for row in images[2:]:
        np.testing.assert_array_equal(row[:, ~hidden], images[0][:, ~hidden])
    assert (images[1][:, hidden] == images[1][0, 2, 3]).all()
    assert cli.main(["complete", run, "--occlude", "bottom", "-n", "5"]) == 0
    assert "exact" in capsys.readouterr().out
    assert cli.main(["complete", run, "--occlude", "right", "-n", "5"]) == 0
    assert "approximate" in capsys.readouterr().out


def test_compare_sorts_and_keeps_protocols_and_bounds_apart(runs, capsys):
    names = ["nade-17", "vae", "belief-net-2", "made-17", "autoencoder"]
    assert cli.main(["compare", *[str(runs / name) for name in names]]) == 0
    blocks = capsys.readouterr().out.strip().split("\n\n")
    assert [block.splitlines()[0].partition(",")[0] for block in blocks] == [
        "digits (17 levels)", "digits (grey)", "digits (threshold)"]
    header = blocks[0].splitlines()[1]
    for block in blocks:
        rows = block.splitlines()[2:]
        nats = [float(row.split()[0]) for row in rows if "no likelihood" not in row]
        assert nats == sorted(nats)
        for row in rows:
            if "autoencoder" in row:
                assert "no likelihood" in row
                continue
            ends_at = len(row) - len(row.lstrip()) + len(row.split()[0])
            column = "bound" if "vae" in row else "exact"
            assert ends_at == header.index(column) + len(column)


@pytest.mark.parametrize("words, code, complaint", [
    ("train nade --levels 3", 2, "--levels 3: digits has 17 levels, choose 2 or 17"),
    ("train nade --levels 1", 2, "--levels must be at least 2"),
    ("train made --order spiral", 2, "--order spiral: choose one of natural, random"),
    ("train made --masks 0", 2, "--masks must be at least 1"),
    ("train pixelcnn --first-kernel 4", 2, "its size must be odd, not 4"),
    ("train pixelrnn --variant column", 2, "--variant column: choose one of row, diagonal"),
    ("train pixelcnn --layers 0", 2, "--layers must be at least 1"),
    ("train belief-net --levels 17 --binarize fixed", 2, "this model needs levels pixels"),
    ("complete {vae}", 2, "vae draws no part of an image given the rest"),
    ("complete {nade-2} --occlude left", 2, "neither bottom nor right, nor a .npy file of 8x8"),
    ("complete {nade-2} --occlude {wrong}", 2, "bool of [3, 8], where booleans of [8, 8]"),
    ("complete {nade-2} --occlude {floats}", 2, "float64 of [8, 8], where booleans of [8, 8]"),
    ("reconstruct {nade-2}", 2, "nade has no codes to reconstruct from"),
    ("sample {nade-2} --mean", 2, "nade has no p(x|z) to take the mean of"),
    ("evaluate {nade-2} --iw-samples 3", 2, "nade has no latent distribution"),
    ("compare {nothing}", 1, "has no figures.json"),
    ("compare {broken}", 1, "cannot be read"),
])
def test_bad_input(runs, tmp_path, capsys, monkeypatch, words, code, complaint):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "wrong.npy", np.zeros((3, 8), dtype=bool))
    np.save(tmp_path / "floats.npy", np.zeros((8, 8)))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "figures.json").write_text('{"protocol": "digits (grey)"')
    places = {"wrong": tmp_path / "wrong.npy", "floats": tmp_path / "floats.npy",
              "nothing": tmp_path, "broken": tmp_path / "broken"}
    for name in ("vae", "nade-2"):
        places[name] = runs / name
    capsys.readouterr()
    assert cli.main(words.format(**places).split()) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert complaint in err
    assert not (tmp_path / "runs").exists()
