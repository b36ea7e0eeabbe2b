"""Small games for the training loop: models whose every step can be followed by hand."""

import numpy as np

from scratchgen import datasets, ops
from scratchgen.datasets import Dataset, Split
from scratchgen.models.game import LikelihoodModel, Player
from scratchgen.models.vae import VAE
from scratchgen.nn import Module
from scratchgen.run import Run
from scratchgen.tensor import Tensor
from scratchgen.train import Trainer

DIM = 6


def toy_data(sizes=(23, 11, 7), images=None):
    """Row i of the training images holds the number i, as do the rows of the other splits."""
    rows = [np.repeat(np.arange(size, dtype=np.uint8)[:, None], DIM, axis=1) for size in sizes]
    splits = [Split(row) for row in rows]
    if images is not None:
        splits[0] = Split(images)
    return Dataset("toy", (2, 3), 64, *splits, "nobody", "levels")


class Point(LikelihoodModel):
    """One parameter per pixel; the objective is minus the squared distance to x. Keeps each x."""

    def __init__(self, dtype=np.float64):
        self.point = Tensor(np.zeros(DIM, dtype=dtype))
        self.seen = []

    def objective(self, x, rng):
        difference = self.point - x
        return -ops.sum(difference * difference, axis=-1)

    def loss(self, x, rng):
        self.seen.append(x[:, 0].tolist())
        return super().loss(x, rng)


class Scripted(Point):
    """Point, whose losses and validation figures are multiplied by given numbers in turn."""

    def __init__(self, losses=(), figures=()):
        super().__init__()
        self.losses = list(losses)
        self.figures = list(figures)

    def loss(self, x, rng):
        factor = self.losses.pop(0) if self.losses else 1.0
        return super().loss(x, rng) * factor

    def figure(self, x, rng):
        value = self.figures.pop(0) if self.figures else 1.0
        return Tensor(np.full(len(x), value))


def trainer(folder, model, dataset=None, **options):
    """A Trainer in float64 with plain SGD unless told otherwise."""
    options = {"lr": 0.01, "batch_size": 5, "optimizer": "sgd", "dtype": np.float64, **options}
    run = Run(folder)
    if not run.exists():
        run.create({"model": "toy"})
    return Trainer(model, dataset or toy_data(), run, **options)


def small_vae(seed=0, xp=np, dtype=np.float32):
    dataset = datasets.load("digits")
    rng = np.random.default_rng(seed)
    return VAE(dataset.dim, rng, (9,), 3).to(xp, np.dtype(dtype)), dataset


def lines_without_seconds(run):
    records = run.metrics()
    for record in records:
        assert record.pop("seconds") >= 0
    return records


class Duel(Module):
    """Two players: a runs after b (two steps a batch), b runs away from a and after x."""

    unit = "nats"

    def __init__(self):
        self.a = Tensor(np.array([1.0, 2.0]))
        self.b = Tensor(np.array([-1.0, 0.5]))
        self.log = []

    def _loss_of(self, name, x):
        self.log.append(name)
        distance = ops.sum((self.a - self.b) * (self.a - self.b))
        if name == "a":
            return distance
        mean = float(x.mean())
        return ops.sum((self.b - mean) * (self.b - mean)) - distance * 0.5

    def players(self):
        return [Player("a", [self.a], lambda x, rng: self._loss_of("a", x), steps=2),
                Player("b", [self.b], lambda x, rng: self._loss_of("b", x))]

    def figure(self, x, rng):
        return Tensor(np.ones(len(x)))
