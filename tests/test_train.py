"""The training loop: who moves when, what is kept, what is written, and how it stops."""

import json
import math
import zipfile

import numpy as np
import pytest

from scratchgen.backend import generator
from scratchgen import backend, datasets
from scratchgen.datasets import DataError, Dataset, Split
from scratchgen.models.autoencoder import Autoencoder
from scratchgen.models.vae import VAE
from scratchgen.train import TrainingError
from training_helpers import (DIM, Duel, Point, Scripted, lines_without_seconds, small_vae,
                              toy_data, trainer)

# --------------------------------------------------------------------------- the examples


def test_every_example_comes_once_an_epoch_in_a_new_order(tmp_path):
    model = Point()
    trainer(tmp_path, model).train(3)
    epochs = [model.seen[start:start + 5] for start in (0, 5, 10)]
    assert len(model.seen) == 15
    orders = []
    for batches in epochs:
        assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
        orders.append(sum(batches, []))
        assert sorted(orders[-1]) == list(range(23))
        assert orders[-1] != list(range(23))
    assert orders[0] != orders[1] != orders[2] != orders[0]


@pytest.mark.parametrize("batch_size, batches", [(1, 23), (23, 1), (22, 2), (1000, 1)])
def test_batches_of_any_size(tmp_path, batch_size, batches):
    model = Point()
    made = trainer(tmp_path, model, batch_size=batch_size)
    made.train(2)
    assert len(model.seen) == 2 * batches
    assert made.step == 2 * batches
    assert sorted(sum(model.seen[:batches], [])) == list(range(23))


def test_dynamic_binarisation_is_redrawn_every_epoch(tmp_path):
    class Keeper(Point):
        def loss(self, x, rng):
            rows[-1].append(x.copy())
            return super().loss(x, rng)

    dataset = datasets.with_encoding(toy_data(), "dynamic")
    rows = [[]]
    made = trainer(tmp_path, Keeper(), dataset, batch_size=23)
    made.train(1)
    rows.append([])
    made.train(2)
    ones = [np.sort(x[0].sum(axis=1)) for x in rows]
    assert not np.array_equal(*ones)
    assert all(set(np.unique(x[0])) == {0.0, 1.0} for x in rows)


def test_the_noise_of_validation_is_the_same_every_epoch(tmp_path):
    class Noisy(Point):
        def figure(self, x, rng):
            drawn.append(rng.standard_normal(3).tolist())
            return super().figure(x, rng)

    drawn = []
    trainer(tmp_path, Noisy()).train(3)
    assert drawn[0] == drawn[1] == drawn[2]


# ---------------------------------------------------------------------------- the players


def test_players_move_in_turn_with_their_steps(tmp_path):
    model = Duel()
    made = trainer(tmp_path, model, lr=0.1)
    a, b = np.array([1.0, 2.0]), np.array([-1.0, 0.5])
    order = generator(0, "training").permutation(23)
    losses = {"a": [], "b": []}
    for start in range(0, 23, 5):
        mean = order[start:start + 5].mean()
        for _ in range(2):
            losses["a"].append(((a - b) ** 2).sum())
            a = a - 0.1 * 2 * (a - b)
        losses["b"].append(((b - mean) ** 2).sum() - 0.5 * ((a - b) ** 2).sum())
        b = b - 0.1 * (2 * (b - mean) + (a - b))
    made.train(1)
    assert model.log == ["a", "a", "b"] * 5
    np.testing.assert_allclose(model.a.data, a, rtol=1e-12)
    np.testing.assert_allclose(model.b.data, b, rtol=1e-12)
    record, = made.run.metrics()
    assert record["step"] == 5  # batches, whoever moves in them
    for name, values in losses.items():
        assert record[f"train_{name}_nats"] == pytest.approx(np.mean(values), rel=1e-12)


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adam"])
def test_a_step_of_one_player_touches_nothing_of_the_other(tmp_path, optimizer):
    model = Duel()
    made = trainer(tmp_path, model, optimizer=optimizer)
    owners = {"a": model.a, "b": model.b}
    moves = []

    def watched(name, step):
        def watching(grads):
            before = {owner: tensor.data.copy() for owner, tensor in owners.items()}
            arrays = {owner: tensor.data for owner, tensor in owners.items()}
            step(grads)
            for owner, tensor in owners.items():
                assert tensor.data is arrays[owner]
                assert np.array_equal(tensor.data, before[owner]) == (owner != name)
            assert len(grads) == 1
            moves.append(name)
        return watching

    for name, own in made.optimizers.items():
        own.step = watched(name, own.step)
    made.train(1)
    assert moves == ["a", "a", "b"] * 5


def test_both_players_are_in_the_checkpoint(tmp_path):
    straight, broken = Duel(), Duel()
    trainer(tmp_path / "straight", straight, optimizer="adam").train(4)
    trainer(tmp_path / "broken", Duel(), optimizer="adam").train(2)
    resumed = trainer(tmp_path / "broken", broken, optimizer="adam")
    resumed.load_state(resumed.run.load_checkpoint())
    resumed.train(4)
    np.testing.assert_array_equal(straight.a.data, broken.a.data)
    np.testing.assert_array_equal(straight.b.data, broken.b.data)
    files = [tmp_path / name / "checkpoint.npz" for name in ("straight", "broken")]
    assert files[0].read_bytes() == files[1].read_bytes()


# -------------------------------------------------------------------------- what is kept


def test_the_best_on_validation_is_kept(tmp_path):
    model = Scripted(figures=[5.0, 3.0, 4.0, 3.0, 6.0])
    made = trainer(tmp_path, model)
    states = []
    for epoch in range(1, 6):
        made.train(epoch)
        states.append(model.point.data.copy())
    assert made.best["epoch"] == 2  # the first of two equal ones
    assert made.best["valid"] == 3.0
    np.testing.assert_array_equal(made.best["state"]["point"], states[1])
    assert not np.array_equal(states[1], states[4])
    arrays = made.run.load_checkpoint()
    np.testing.assert_array_equal(arrays["best/point"], states[1])
    np.testing.assert_array_equal(arrays["model/point"], states[4])
    assert (arrays["epoch"], arrays["best_epoch"], arrays["best_valid"]) == (5, 2, 3.0)
    assert made.train(5) == 3.0  # nothing left to do


def test_the_best_stays_the_best_after_a_resume(tmp_path):
    made = trainer(tmp_path, Scripted(figures=[1.0, 2.0]))
    made.train(1)
    best = made.model.point.data.copy()
    made.train(2)
    resumed = trainer(tmp_path, Scripted(figures=[3.0]))
    resumed.load_state(made.run.load_checkpoint())
    np.testing.assert_array_equal(resumed.best["state"]["point"], best)
    assert resumed.train(3) == 1.0
    arrays = made.run.load_checkpoint()
    np.testing.assert_array_equal(arrays["best/point"], best)
    assert arrays["best_epoch"] == 1


def test_metrics_are_the_means_of_what_was_seen(tmp_path):
    model = Point()
    made = trainer(tmp_path, model, lr=1e-300)  # the point stays at zero
    made.train(2)
    batches = [np.array(batch) ** 2 * DIM for batch in model.seen[:5]]
    valid = (np.arange(11) ** 2 * DIM).mean()
    for epoch, record in enumerate(lines_without_seconds(made.run), start=1):
        assert record.keys() == {"epoch", "step", "train_nats", "train_bits_per_dim",
                                 "valid_nats", "valid_bits_per_dim"}
        assert (record["epoch"], record["step"]) == (epoch, 5 * epoch)
        assert record["valid_nats"] == pytest.approx(valid)
        assert record["valid_bits_per_dim"] == pytest.approx(valid / DIM / math.log(2))
    first = made.run.metrics()[0]
    assert first["train_nats"] == pytest.approx(np.mean([batch.mean() for batch in batches]))


CHECKPOINT = {
    "format": "<i8", "epoch": "<i8", "step": "<i8", "best_epoch": "<i8", "best_valid": "<f8",
    "generator": "<U", "model/point": "<f8", "best/point": "<f8", "optimizer/model/steps": "<i8",
    "optimizer/model/m.0": "<f8", "optimizer/model/v.0": "<f8"}


def test_what_a_checkpoint_holds(tmp_path):
    made = trainer(tmp_path, Point(), optimizer="adam")
    made.train(2)
    arrays = made.run.load_checkpoint()  # refuses pickles
    assert arrays.keys() == CHECKPOINT.keys()  # and nothing that tells the time
    for name, kind in CHECKPOINT.items():
        assert arrays[name].dtype.str.startswith(kind), name
    assert json.loads(str(arrays["generator"])) == made.rng.bit_generator.state
    with zipfile.ZipFile(made.run.checkpoint_path) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adam"])
def test_one_seed_gives_one_run_and_another_another(tmp_path, optimizer):
    runs = []
    for name, seed in [("one", 3), ("again", 3), ("other", 4)]:
        model, dataset = small_vae(3)
        made = trainer(tmp_path / name, model, dataset, optimizer=optimizer, seed=seed,
                       batch_size=300, dtype=np.float32)
        made.train(3)
        runs.append((made.run.checkpoint_path.read_bytes(), lines_without_seconds(made.run)))
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[2][0]
    assert runs[0][1] != runs[2][1]


# ------------------------------------------------------------------ precision and backend


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adam"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_precision_stays(tmp_path, optimizer, dtype):
    model, dataset = small_vae(dtype=dtype)
    made = trainer(tmp_path, model, dataset, optimizer=optimizer, batch_size=300,
                   max_grad_norm=0.5, dtype=np.dtype(dtype))
    grads_seen = []
    step = made.optimizers["model"].step
    made.optimizers["model"].step = lambda grads: (grads_seen.extend(grads), step(grads))
    made.train(1)
    assert {g.dtype for g in grads_seen} == {np.dtype(dtype)}
    for name, array in made.state().items():
        if name.startswith(("model/", "best/")) or name.rpartition(".")[2].isdigit():
            assert array.dtype == dtype, name


@pytest.mark.parametrize("build", [
    lambda dim, rng: VAE(dim, rng, (9,), 3),
    lambda dim, rng: VAE(dim, rng, (9,), 3, posterior="laplace", kl="monte-carlo"),
    lambda dim, rng: VAE(dim, rng, (9,), 3, "gaussian", decoder_std="network"),
    lambda dim, rng: Autoencoder(dim, rng, (9,), 3, "bernoulli")])
@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adam"])
def test_training_is_the_same_on_every_backend(tmp_path, xp, build, optimizer):
    dataset = datasets.load("digits")
    curves = []
    for module in (np, xp):
        model = build(dataset.dim, np.random.default_rng(0)).to(module, np.dtype("float64"))
        made = trainer(tmp_path / str(len(curves)), model, dataset, optimizer=optimizer, xp=module,
                       lr=1e-3, batch_size=300, max_grad_norm=10.0)
        made.train(2)
        assert all(backend.module_of(p.data) is module for p in model.parameters())
        resumed = trainer(made.run.folder, model, dataset, optimizer=optimizer, xp=module)
        resumed.load_state(made.run.load_checkpoint())
        assert resumed.state().keys() == made.state().keys()
        for name, array in made.state().items():
            np.testing.assert_array_equal(resumed.state()[name], array, err_msg=name)
        curves.append([list(record.values()) for record in lines_without_seconds(made.run)])
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-8)


# --------------------------------------------------------------------- gradient clipping


def test_a_large_gradient_is_cut_to_its_norm(tmp_path):
    model = Point()
    made = trainer(tmp_path, model, lr=1.0, batch_size=23, max_grad_norm=0.25)
    made.train(1)
    assert np.linalg.norm(model.point.data) == pytest.approx(0.25)  # one step, from zero


def test_a_small_gradient_is_left_alone(tmp_path):
    points = []
    for limit in (None, 1e6):
        model = Point()
        made = trainer(tmp_path / str(limit), model, lr=0.01, max_grad_norm=limit)
        made.train(1)
        points.append(model.point.data)
    np.testing.assert_array_equal(*points)


# --------------------------------------------------------------- what cannot be trained on


def test_the_learning_rate_falls_as_a_cosine(tmp_path, monkeypatch):
    rates = []
    training = trainer(tmp_path, Point(), toy_data(), lr=0.5, lr_schedule="cosine")
    optimizer, = training.optimizers.values()
    monkeypatch.setattr(optimizer, "step", lambda grads: rates.append(optimizer.lr))
    training.train(4)
    done = np.arange(len(rates)) / len(rates)
    np.testing.assert_allclose(rates, 0.25 * (1 + np.cos(np.pi * done)), rtol=1e-12)
    assert len(rates) == 4 * training.step / training.epoch


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("epochs, saved", [
    (1, "no checkpoint was written yet"),
    (2, "the last good checkpoint is epoch 1 in {folder}")])
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, value, epochs, saved):
    bad_step = 5 * (epochs - 1) + 2
    model = Scripted(losses=[1.0] * bad_step + [value])
    made = trainer(tmp_path, model)
    if epochs == 2:
        made.train(1)
        before = made.run.checkpoint_path.read_bytes()
    with pytest.raises(TrainingError) as error:
        made.train(3)
    assert str(error.value) == (
        f"the loss of player model became {value} at step {bad_step} (epoch {epochs}); "
        f"{saved.format(folder=tmp_path)}; train into another --out with a smaller --lr")
    assert len(made.run.metrics()) == epochs - 1
    if epochs == 1:
        assert not made.run.checkpoint_path.exists()
    else:
        assert made.run.checkpoint_path.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["config.json", "metrics.jsonl"] + ["checkpoint.npz"] * (epochs - 1))


def test_a_bad_loss_is_found_in_a_short_epoch_and_in_a_long_one(tmp_path):
    for batch_size, step in [(23, 0), (1, 22)]:
        model = Scripted(losses=[1.0] * step + [math.nan])
        with pytest.raises(TrainingError, match=rf"at step {step} \(epoch 1\)"):
            trainer(tmp_path / str(batch_size), model, batch_size=batch_size).train(1)


def test_a_validation_figure_that_is_no_number_stops_the_run(tmp_path):
    model = Scripted(figures=[2.0, math.nan])
    made = trainer(tmp_path, model)
    made.train(1)
    before = made.run.checkpoint_path.read_bytes()
    with pytest.raises(TrainingError) as error:
        made.train(2)
    assert str(error.value).startswith(
        "the validation figure became nan (epoch 2); the last good checkpoint is epoch 1 in")
    assert made.run.checkpoint_path.read_bytes() == before
    assert len(made.run.metrics()) == 1


def test_a_real_explosion_gives_one_message_and_no_warning(tmp_path):
    model, dataset = small_vae()
    made = trainer(tmp_path, model, dataset, lr=1e30, dtype=np.float32)
    with pytest.raises(TrainingError, match="the loss of player model became (nan|inf) at step 1 "):
        made.train(5)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_data_with_nan_is_refused_before_anything_is_done(tmp_path, split, value):
    images = {name: np.ones((4, DIM), dtype=np.float32) for name in ("train", "valid", "test")}
    images[split][2, 3] = value
    splits = [Split(array) for array in images.values()]
    dataset = Dataset("toy", (2, 3), 2, *splits, "nobody", "levels")
    with pytest.raises(DataError) as error:
        trainer(tmp_path, Point(), dataset)
    assert str(error.value) == (f"toy: {split} image 2 holds NaN or infinity: every value must be "
                                "a finite number")
    assert not (tmp_path / "metrics.jsonl").exists()


# -------------------------------------------------------------------------- foreign states


def test_a_state_of_another_model_is_refused(tmp_path):
    model, dataset = small_vae()
    made = trainer(tmp_path, model, dataset, dtype=np.float32)
    state = made.state()
    narrower = VAE(dataset.dim, np.random.default_rng(0), (8,), 3)
    with pytest.raises(ValueError, match=r"parameter encoder\.layers\.0\.weight is float32\[8, 64"):
        trainer(tmp_path, narrower, dataset, dtype=np.float32).load_state(state)
    with pytest.raises(ValueError, match="another model's parameters"):
        trainer(tmp_path, Point(), dataset).load_state(state)


@pytest.mark.parametrize("change", [
    {"format": np.array(2)}, {"format": None}, {"best/point": np.zeros(DIM + 1)},
    {"best/point": None}, {"optimizer/model/v.0": np.zeros(DIM + 1)},
    {"generator": np.array("{}")}, {"generator": np.array("no json")}, {"epoch": None}])
def test_a_state_with_a_wrong_part_is_refused(tmp_path, change):
    made = trainer(tmp_path, Point(), optimizer="adam")
    state = made.state() | change
    state = {name: array for name, array in state.items() if array is not None}
    with pytest.raises((ValueError, KeyError)):
        trainer(tmp_path, Point(), optimizer="adam").load_state(state)


# -------------------------------------------------------------------------------- progress


@pytest.mark.parametrize("epochs, reported", [(1, [1]), (3, [1, 2, 3]),
                                              (45, [1, *range(3, 46, 3)])])
def test_plain_lines_where_there_is_no_terminal(tmp_path, capsys, epochs, reported):
    trainer(tmp_path, Point(), batch_size=23).train(epochs)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == ""
    assert [line.split("  ")[0] for line in lines] == [f"epoch {n}/{epochs}" for n in reported]
    for line in lines:
        _, train, valid, left = line.split("  ")
        assert train.startswith("train nats ") and valid.startswith("valid nats ")
        assert left.endswith(" s left")
    assert lines[-1].endswith("  0 s left")
