"""Floor 5: the one training loop, for every model that is trained by gradients.

A model is a game (models/game.py): for each minibatch its players update in turn, each by the
gradient of its own loss with respect to its own parameters. The loop shuffles, validates after
every epoch, remembers the parameters that were best on validation, and leaves a checkpoint from
which a killed run goes on to the very same bits.
"""

import json
import math
import time

import numpy as np

from scratchgen import backend
from scratchgen.datasets import DataError
from scratchgen.evaluate import in_units, validation_figure
from scratchgen.optim import OPTIMIZERS, SCHEDULES, clip_grad_norm
from scratchgen.progress import Training
from scratchgen.tensor import grad

_FORMAT = 1  # of checkpoint.npz
_LOSSES_AT_ONCE = 50  # losses are fetched and checked this many steps at a time


class TrainingError(RuntimeError):
    """Training cannot go on; the message says what happened, where, and what is saved."""


class Trainer:
    """Trains `model` on `dataset` and records the run.

    xp and dtype say where and in which precision the model lives; `rng` draws the order of the
    examples, the encoding's noise and the model's noise, and is part of the checkpoint.
    """

    def __init__(self, model, dataset, run, *, lr=1e-3, batch_size=100, optimizer="adam",
                 lr_schedule="constant", max_grad_norm=None, seed=0, xp=np, dtype=np.float32):
        _check_finite(dataset)
        self.model = model
        self.dataset = dataset
        self.run = run
        self.batch_size = batch_size
        self.lr = lr
        self.schedule = SCHEDULES[lr_schedule]
        self.max_grad_norm = max_grad_norm
        self.seed = seed
        self.xp = xp
        self.dtype = dtype
        self.rng = backend.generator(seed, "training")
        self.players = model.players()
        self.optimizers = {player.name: OPTIMIZERS[optimizer](player.parameters, lr=lr)
                           for player in self.players}
        self.epoch = 0
        self.step = 0
        self.best = {"epoch": 0, "valid": math.inf, "state": model.state_dict()}

    def train(self, epochs):
        """Train up to `epochs` epochs in all; returns the best validation figure, in nats."""
        self.run.cut_metrics(self.epoch)
        before = [record["seconds"] for record in self.run.metrics()]
        start = time.perf_counter() - (before[-1] if before else 0)  # of a resumed run
        # The loop looks at every loss itself: NumPy need not warn of a number that overflows.
        silence = np.errstate(over="ignore", invalid="ignore", divide="ignore")
        steps = math.ceil(len(self.dataset.train) / self.batch_size)
        with silence, Training(epochs, self.epoch, steps) as progress:
            while self.epoch < epochs:
                losses = self._train_one_epoch(progress, epochs * steps)
                self._finish_epoch(losses, time.perf_counter() - start, progress)
        return self.best["valid"]

    def _train_one_epoch(self, progress, all_steps):
        """Every example once, in a fresh order; returns each player's losses."""
        images = self.dataset.train.images
        order = self.rng.permutation(len(images))
        losses = {player.name: [] for player in self.players}
        waiting = []
        for start in range(0, len(images), self.batch_size):
            batch = images[order[start:start + self.batch_size]]
            x = self.xp.asarray(self.dataset.encode(batch, self.rng, self.dtype))
            for player in self.players:
                self.optimizers[player.name].lr = self.lr * self.schedule(self.step / all_steps)
                for _ in range(player.steps):
                    waiting.append((player.name, self.step, self._update(player, x)))
            self.step += 1
            progress.update()
            if len(waiting) >= _LOSSES_AT_ONCE:
                self._record(waiting, losses)
        self._record(waiting, losses)
        return losses

    def _update(self, player, x):
        """One step of one player; returns its loss as an array, not yet fetched."""
        loss = player.loss(x, self.rng)
        grads = grad(loss, player.parameters)
        if self.max_grad_norm is not None:
            clip_grad_norm(grads, self.max_grad_norm)
        self.optimizers[player.name].step(grads)
        return loss.data

    def _record(self, waiting, losses):
        """Fetch the waiting losses; TrainingError at the first that is not finite."""
        for name, step, loss in waiting:
            value = loss.item()
            if not math.isfinite(value):
                raise self._diverged(f"the loss of player {name} became {value} at step {step}")
            losses[name].append(value)
        waiting.clear()

    def _diverged(self, what):
        """The TrainingError that says what happened, in the epoch after the last one saved."""
        saved = f"the last good checkpoint is epoch {self.epoch} in {self.run.folder}"
        if not self.epoch:
            saved = "no checkpoint was written yet"
        return TrainingError(f"{what} (epoch {self.epoch + 1}); {saved}; train into another --out "
                             "with a smaller --lr")

    def _finish_epoch(self, losses, seconds, progress):
        """Validate, keep the best, write the metrics line and then the checkpoint."""
        rng = backend.generator(self.seed, "valid")  # the same noise for every epoch
        valid = validation_figure(self.model, self.dataset, "valid", rng, self.xp, self.dtype)
        if not math.isfinite(valid):
            raise self._diverged(f"the validation figure became {valid}")
        self.epoch += 1
        figures = {"train" if len(losses) == 1 else f"train_{name}": float(np.mean(values))
                   for name, values in losses.items()}
        record = {"epoch": self.epoch, "step": self.step, "seconds": round(seconds, 3)}
        for name, value in [*figures.items(), ("valid", valid)]:
            record |= in_units(name, value, self.model, self.dataset)
        if valid < self.best["valid"]:
            self.best = {"epoch": self.epoch, "valid": valid, "state": self.model.state_dict()}
        self.run.append_metrics(record)
        self.run.save_checkpoint(self.state())
        progress.report(record)

    def state(self):
        """Everything that the rest of the training depends on, as arrays for an .npz file."""
        arrays = {"format": np.array(_FORMAT), "epoch": np.array(self.epoch),
                  "step": np.array(self.step), "best_epoch": np.array(self.best["epoch"]),
                  "best_valid": np.array(self.best["valid"]),
                  "generator": np.array(json.dumps(self.rng.bit_generator.state))}
        arrays |= {f"model/{name}": x for name, x in self.model.state_dict().items()}
        arrays |= {f"best/{name}": x for name, x in self.best["state"].items()}
        for player, optimizer in self.optimizers.items():
            arrays |= {f"optimizer/{player}/{name}": x
                       for name, x in optimizer.state_dict().items()}
        return arrays

    def load_state(self, arrays):
        """Continue from what `state` returned; ValueError if it is not of this model."""
        check_format(arrays)
        self.model.load_state_dict(part(arrays, "best/"))  # looks at names and shapes
        self.model.load_state_dict(part(arrays, "model/"))
        for player, optimizer in self.optimizers.items():
            optimizer.load_state_dict(part(arrays, f"optimizer/{player}/"))
        self.rng.bit_generator.state = json.loads(str(arrays["generator"]))
        self.epoch = int(arrays["epoch"])
        self.step = int(arrays["step"])
        self.best = {"epoch": int(arrays["best_epoch"]), "valid": float(arrays["best_valid"]),
                     "state": part(arrays, "best/")}


def _check_finite(dataset):
    """DataError if there is a NaN or an infinity in the images (integers hold none)."""
    for name in ("train", "valid", "test"):
        images = dataset.split(name).images
        if images.dtype.kind == "f" and not np.isfinite(images).all():
            row = int(np.argmin(np.isfinite(images).all(axis=1)))
            raise DataError(f"{dataset.name}: {name} image {row} holds NaN or infinity: every "
                            "value must be a finite number")


def check_format(arrays):
    """ValueError unless the arrays come from a checkpoint that this version reads."""
    if "format" not in arrays or int(arrays["format"]) != _FORMAT:
        raise ValueError("not a checkpoint of this version of scratchgen")


def part(arrays, prefix):
    """The entries whose names begin with `prefix`, without it."""
    return {name[len(prefix):]: x for name, x in arrays.items() if name.startswith(prefix)}
