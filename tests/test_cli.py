"""The commands from the first to the last: what they print, what they leave, what they import."""

import json
import math
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest

import scratchgen
from command_helpers import ROOT, TINY, assert_picture, process, train_both
from scratchgen import catalog, cli, commands
from scratchgen.datasets.sources import REGISTRY

TRAINED = {  # name -> model, options
    "vae": ("vae", []),
    "laplace": ("vae", ["--posterior", "laplace", "--binarize", "dynamic"]),
    **{f"gaussian-{std}": ("vae", ["--likelihood", "gaussian", "--decoder-std", std])
       for std in ("fixed", "shared", "pixel", "network")},
    "autoencoder": ("autoencoder", []),
    "autoencoder-bernoulli": ("autoencoder", ["--likelihood", "bernoulli"]),
}
WITH_PICTURES = ("vae", "gaussian-shared", "autoencoder", "autoencoder-bernoulli")  # they take time
PICTURES = {
    "vae": ["curves.png", "interpolations.png", "manifold.png", "reconstructions.png",
            "sample_means.png", "samples.png"],
    "autoencoder": ["curves.png", "reconstructions.png"],
}
LIGHT = "matplotlib pooch cupy tqdm torch autograd sklearn scipy requests".split()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a VAE of two latents and an autoencoder, trained without pictures."""
    return train_both(tmp_path_factory.mktemp("runs"))


# ------------------------------------------------------------------------------------ help

COMMANDS = [["train", name] for name in catalog.MODELS] + [
    ["evaluate"], ["sample"], ["reconstruct"], ["complete"], ["compare"], ["datasets"],
    ["gradcheck"]]


def help_of(words, capsys):
    with pytest.raises(SystemExit) as leaving:
        cli.main([*words, "--help"])
    out, err = capsys.readouterr()
    assert (leaving.value.code, err) == (0, "")
    return " ".join(out.split())


@pytest.mark.parametrize("words", [[], ["train"], *COMMANDS], ids=" ".join)
def test_help_has_a_sentence_and_an_example(words, capsys):
    text = help_of(words, capsys)
    prog = " ".join(["scratchgen", *words])
    assert text.startswith(f"usage: {prog} ")
    assert re.search(r" [A-Z][a-z0-9' ]+ .*?\. (options|positional arguments): ", text)
    example = re.search(rf" example: ({prog} .*|{prog})$", text)
    assert example, text


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_says_what_it_is_and_its_default(words, capsys):
    help_of(words, capsys)
    parser = cli.build_parser()
    for word in words:
        parser = parser._subparsers._group_actions[0].choices[word]
    for action in parser._actions:
        if action.nargs == 0 or not action.option_strings:
            assert action.help  # a switch, off by default, or a positional argument
            continue
        explained = action.dest in ("out", "data_dir", "only", "max_grad_norm", "examples")
        assert "default: " in action.help or explained, action.option_strings


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_example_of_every_help_can_be_parsed(words, capsys):
    example = help_of(words, capsys).rpartition("example: ")[2]
    parsed = cli.build_parser().parse_args(example.split()[1:])
    assert parsed.command is not None


def test_help_keeps_the_names_of_people(capsys):
    assert "the variational autoencoder (Kingma & Welling 2014)." in help_of(["train", "vae"],
                                                                             capsys)


def test_version(capsys):
    with pytest.raises(SystemExit) as leaving:
        cli.main(["--version"])
    assert leaving.value.code == 0
    assert capsys.readouterr().out == f"scratchgen {scratchgen.__version__}\n"
    metadata = (ROOT / "setup.cfg").read_text()
    assert f"\nversion = {scratchgen.__version__}\n" in metadata


def test_the_module_and_the_console_command_are_the_same():
    assert "\n    scratchgen = scratchgen.cli:main\n" in (ROOT / "setup.cfg").read_text()
    done = process("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"scratchgen {scratchgen.__version__}\n"


# --------------------------------------------------------------------------------- imports


@pytest.mark.parametrize("line", ["import scratchgen", "import scratchgen.cli",
                                  "from scratchgen.cli import main; main(['evaluate', 'none'])"])
def test_importing_is_light(line):
    shown = subprocess.run(
        [sys.executable, "-c", f"{line}\nimport sys\nprint(*sys.modules)"], check=True, text=True,
        capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)}).stdout.split()
    assert not [name for name in LIGHT if name in shown]
    assert "scratchgen" in shown


# ----------------------------------------------------- train, evaluate, sample, reconstruct


@pytest.mark.parametrize("name", TRAINED)
def test_from_training_to_pictures(tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    model, options = TRAINED[name]
    pictures = PICTURES[model] if name in WITH_PICTURES else []
    if not pictures:
        monkeypatch.setattr(commands.Pictures, "of_run", lambda *args: None)
    unit = "squared error" if name == "autoencoder" else "nats"
    assert cli.main(["train", model, *TINY, *options, "--out", "run"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert re.match(rf"{model} on digits \([a-z]+\): 1,000 training images, [\d,]+ parameters, "
                    r"seed 0, numpy$", lines[0])
    assert re.match(rf"epoch 1/2  train {unit} -?\d+\.\d\d  valid {unit} -?\d+\.\d\d  ", lines[1])
    assert re.match(r"trained epochs 1 to 2 in \d+ s; best on validation: epoch [12]$", lines[3])
    # The model and its baselines: a mixture where pixels are binary, a floor where drawn.
    rows = {"threshold": 3, "dynamic": 4}.get(re.search(r"\((\w+)\)", lines[0])[1], 2)
    figures = lines[4:5 + 2 * rows]
    assert [line.split()[0] for line in figures[1:]] == ["valid"] * rows + ["test"] * rows
    assert lines[-1] == ("in run: config.json, metrics.jsonl, checkpoint.npz, figures.json, "
                         + ", ".join(pictures))
    assert sorted(path.name for path in Path("run").iterdir()) == sorted(
        ["config.json", "metrics.jsonl", "checkpoint.npz", "figures.json", *pictures])
    for picture in pictures:
        assert_picture(Path("run") / picture)

    assert cli.main(["evaluate", "run"]) == 0
    evaluated = capsys.readouterr().out.splitlines()
    assert evaluated[0] == lines[0].partition(":")[0] + ", run"
    assert evaluated[1:] == figures  # the figures that training ended with

    for command in ("sample", "reconstruct")[model == "autoencoder":]:
        assert cli.main([command, "run", "-n", "7", "--out", f"{command}.png"]) == 0
        assert capsys.readouterr().out == f"{command}.png\n"
        assert_picture(Path(f"{command}.png"))


def test_the_default_folder_is_named_after_the_model(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "autoencoder", *TINY]) == 0
    assert (tmp_path / "runs" / "autoencoder" / "checkpoint.npz").exists()


def test_config_holds_every_option(runs):
    config = json.loads((runs / "vae" / "config.json").read_text())
    names = {option.name.replace("-", "_") for option in catalog.options_of("vae")}
    assert config.keys() == {"model"} | names
    given = {"model": "vae", "hidden": [8], "latent": 2, "epochs": 2, "batch_size": 200}
    assert config | given == config
    assert config["dataset"] == "digits" and config["lr"] == 1e-3


def test_metrics_have_one_line_for_each_epoch(runs):
    lines = (runs / "vae" / "metrics.jsonl").read_text().splitlines()
    for epoch, line in enumerate(lines, start=1):
        record = json.loads(line)
        assert list(record) == ["epoch", "step", "seconds", "train_nats", "train_bits_per_dim",
                                "valid_nats", "valid_bits_per_dim"]
        assert (record["epoch"], record["step"]) == (epoch, 5 * epoch)
        assert record["valid_bits_per_dim"] == pytest.approx(
            record["valid_nats"] / 64 / math.log(2))
    assert len(lines) == 2


def test_pictures_follow_from_the_seed(runs, tmp_path, capsys):
    contents = []
    for name, options in [("one", []), ("again", ["--seed", "0"]), ("other", ["--seed", "1"]),
                          ("mean", ["--mean"])]:
        path = tmp_path / f"{name}.png"
        assert cli.main(["sample", str(runs / "vae"), "-n", "4", "--out", str(path),
                         *options]) == 0
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert len(set(contents)) == 3


def test_more_reconstructions_than_there_are_test_images(runs, tmp_path):
    path = tmp_path / "all.png"
    assert cli.main(["reconstruct", str(runs / "vae"), "-n", "10000", "--out", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


# -------------------------------------------------------------------------------- evaluate


def strictly(text):
    """The object in a JSON text that holds neither NaN nor Infinity."""
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")
    return json.loads(text, parse_constant=refuse)


KEYS = ["nats", "bits_per_dim", "stderr", "estimator", "k", "examples"]


def test_evaluate_as_json(runs, capsys):
    assert cli.main(["evaluate", str(runs / "vae"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert (out.count("\n"), err) == (1, "")
    result = strictly(out)
    assert list(result) == ["model", "dataset", "protocol", "seed", "splits"]
    assert (result["model"], result["dataset"]) == ("vae", "digits")
    assert result["protocol"] == "digits (threshold)"
    assert list(result["splits"]) == ["valid", "test"]
    for split, examples in [("valid", 350), ("test", 447)]:
        figures = result["splits"][split]
        assert list(figures) == [*KEYS, "all", "baselines"]
        assert figures["estimator"] == "-ELBO"
        assert (figures["k"], figures["examples"]) == (1, examples)
        assert figures["bits_per_dim"] == pytest.approx(figures["nats"] / 64 / math.log(2))
        assert 0 < figures["stderr"] < 1
        assert [list(row) for row in figures["all"]] == [KEYS]
        assert [row["estimator"] for row in figures["baselines"]] == ["mixture of 10",
                                                                      "independent pixels"]
        assert {row["examples"] for row in figures["baselines"]} == {examples}
    mixture, independent = [row["nats"] for row in result["splits"]["test"]["baselines"]]
    assert independent == pytest.approx(24.9, abs=0.05)
    assert 19 < mixture < 20.5


def test_evaluate_with_importance_weights(runs, capsys):
    assert cli.main(["evaluate", str(runs / "vae"), "--json", "--iw-samples", "20",
                     "--examples", "50"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for figures in strictly(out)["splits"].values():
        assert [row["estimator"] for row in figures["all"]] == ["importance-weighted", "-ELBO",
                                                                "prior-sampled"]
        assert [row["k"] for row in figures["all"]] == [20, 1, 20]
        assert {key: figures[key] for key in KEYS} == figures["all"][0]
        assert figures["examples"] == 50


def test_evaluate_one_example(runs, capsys):
    assert cli.main(["evaluate", str(runs / "vae"), "--json", "--iw-samples", "3",
                     "--examples", "1"]) == 0
    figures = strictly(capsys.readouterr().out)["splits"]["test"]
    assert figures["stderr"] is None  # of one number there is none


def test_evaluate_what_is_no_likelihood(runs, capsys):
    assert cli.main(["evaluate", str(runs / "autoencoder"), "--json"]) == 0
    figures = strictly(capsys.readouterr().out)["splits"]["test"]
    assert figures["nats"] is None and figures["bits_per_dim"] is None
    assert figures["squared_error"] > 0
    assert [row["estimator"] for row in figures["baselines"]] == ["mean image"]


def test_the_table_says_the_same_as_the_json(runs, capsys):
    options = [str(runs / "vae"), "--iw-samples", "20", "--examples", "50"]
    assert cli.main(["evaluate", *options]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert cli.main(["evaluate", *options, "--json"]) == 0
    splits = strictly(capsys.readouterr().out)["splits"]
    expected = [(split, row) for split, figures in splits.items()
                for row in [*figures["all"], *figures["baselines"]]]
    assert len(rows) == len(expected) == 10
    for line, (split, row) in zip(rows, expected):
        words = line.split()
        assert words[0] == split
        assert float(words[1]) == pytest.approx(row["nats"], abs=6e-4)
        assert float(words[2]) == pytest.approx(row["stderr"], abs=6e-4)
        assert float(words[3]) == pytest.approx(row["bits_per_dim"], abs=6e-5)
        assert line.partition(words[3])[2].strip().startswith(row["estimator"])
        assert ("K = 20" in line) == (row["k"] == 20)


# -------------------------------------------------------------------------------- datasets


def test_datasets_lists_what_there_is(tmp_path, capsys):
    assert cli.main(["datasets", "--data-dir", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    blocks = re.split(r"\n(?=\S)", out.rstrip("\n"))
    assert [block.partition(":")[0] for block in blocks] == list(REGISTRY)
    for block, source in zip(blocks, REGISTRY.values()):
        first, state, credit, licence = block.splitlines()
        assert first.endswith(f"{source.levels} levels, {source.encoding} by default")
        package = Path(scratchgen.__file__).parent / "datasets"
        where = package if source.embedded else tmp_path / source.name
        assert state == f"    {'here' if source.embedded else 'not here yet'}: {where}"
        assert credit.strip() == source.credit
        assert licence == f"    licence: {source.licence}"


def test_datasets_sees_files_that_are_there(data_dir, capsys):
    assert cli.main(["datasets", "--data-dir", str(data_dir)]) == 0
    assert f"    here: {data_dir}/" in capsys.readouterr().out


# -------------------------------------------------------------------------------- progress


def on_a_terminal(*words):
    """What a command writes to stderr where that is a terminal of 120 columns."""
    main_end, command_end = pty.openpty()
    termios.tcsetwinsize(command_end, (40, 120))
    with subprocess.Popen([sys.executable, "-m", "scratchgen", *words], stderr=command_end,
                          stdout=subprocess.DEVNULL,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}) as command:
        os.close(command_end)
        shown = b""
        while True:
            try:
                piece = os.read(main_end, 65536)
            except OSError:  # how Linux says that the other end is closed
                break
            if not piece:
                break
            shown += piece
    os.close(main_end)
    assert command.returncode == 0, shown
    return shown.decode()


def test_training_on_a_terminal_shows_the_time_left(tmp_path):
    shown = on_a_terminal("train", "autoencoder", *TINY, "--out", str(tmp_path / "run"))
    assert re.search(r"\d+%\|.*\| \d+/10 \[\d\d:\d\d<\d\d:\d\d, .*step", shown)
    assert re.search(r"train squared error \d+\.\d\d  valid squared error \d+\.\d\d", shown)


def test_weighting_on_a_terminal_shows_the_time_left(runs):
    # Enough samples that the bar moves before they are done.
    shown = on_a_terminal("evaluate", str(runs / "vae"), "--iw-samples", "3000")
    assert re.search(r"valid, K = 3000: +\d+%\|.*<\d\d:\d\d, .*sample", shown)
    assert "test, K = 3000: " in shown


def test_plain_lines_where_there_is_no_terminal(runs, tmp_path):
    done = process("train", "autoencoder", *TINY, "--out", str(tmp_path / "run"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "\r" not in done.stdout
    assert re.search(r"^epoch 2/2  train squared error .*  0 s left$", done.stdout, re.MULTILINE)
    done = process("evaluate", str(runs / "vae"), "--iw-samples", "20")
    assert (done.returncode, done.stderr) == (0, "")


# ------------------------------------------------------------------------ the option itself


def test_defaults_pass_their_own_checks():
    for name in catalog.MODELS:
        for option in catalog.options_of(name):
            option.check(option.default)


def test_every_default_configuration_builds():
    for name in catalog.MODELS:
        config = {option.name.replace("-", "_"): option.default
                  for option in catalog.options_of(name)}
        config["model"] = name
        model, xp, dtype = catalog.build(config, catalog.load_data(config))
        assert xp is np and dtype == np.float32
        assert all(p.dtype == np.float32 for p in model.parameters())
