"""Floor 5: the models by name: which options each takes, and how it is built for a data set.

A run's config.json holds one value for every option here, so a model can be built again from
it alone. The values are plain JSON.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from scratchgen import backend, datasets
from scratchgen.datasets import ENCODINGS, DataError
from scratchgen.datasets.sources import REGISTRY
from scratchgen.models.autoencoder import Autoencoder
from scratchgen.models.belief_net import BeliefNet
from scratchgen.models.coders import DECODER_STDS
from scratchgen.models.made import MADE, ORDERS
from scratchgen.models.nade import NADE
from scratchgen.models.pixelcnn import PixelCNN
from scratchgen.models.pixelrnn import VARIANTS, PixelRNN
from scratchgen.models.vae import POSTERIORS, VAE
from scratchgen.nn import ACTIVATIONS
from scratchgen.optim import OPTIMIZERS, SCHEDULES

BINARIZE = ("threshold", "fixed", "dynamic", "none")


class UsageError(ValueError):
    """Options that do not go together, or a name that does not exist."""


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of `scratchgen train`: --name with dashes, its default and its meaning."""

    name: str
    kind: type
    default: object
    help: str
    choices: tuple = None
    several: bool = False
    least: float = None  # the smallest value allowed; `above` the largest that is not
    above: float = None
    most: float = None

    def check(self, value):
        """UsageError unless the value is one that the option takes."""
        if value is None and self.default is None:
            return
        for item in value if self.several else [value]:
            if not isinstance(item, (int, float) if self.kind is float else self.kind):
                raise UsageError(f"--{self.name} must be of type {self.kind.__name__}, "
                                 f"not {item!r}")
            if self.choices and item not in self.choices:
                raise UsageError(f"--{self.name} {item}: choose one of {', '.join(self.choices)}")
            if self.kind is float and not math.isfinite(item):
                raise UsageError(f"--{self.name} must be a finite number, not {item}")
            if self.least is not None and item < self.least:
                raise UsageError(f"--{self.name} must be at least {self.least}, not {item}")
            if self.above is not None and not item > self.above:
                raise UsageError(f"--{self.name} must be above {self.above}, not {item}")
            if self.most is not None and item > self.most:
                raise UsageError(f"--{self.name} must be at most {self.most:,}, not {item}")


TRAINING = [
    Option("dataset", str, "digits", "which data set", tuple(REGISTRY)),
    Option("binarize", str, None, "how grey levels become 0 and 1 (default: threshold for digits, "
           "dynamic for mnist; none: the data are binary)", BINARIZE),
    Option("epochs", int, 400, "passes through the training images", least=1, most=10 ** 9),
    Option("batch-size", int, 50, "examples per step", least=1),
    Option("lr", float, 1e-3, "learning rate", above=0),
    Option("lr-schedule", str, "constant", "how the learning rate goes over all the epochs: "
           "cosine brings it to zero", tuple(SCHEDULES)),
    Option("optimizer", str, "adam", "how gradients change parameters", tuple(OPTIMIZERS)),
    Option("max-grad-norm", float, None, "clip the gradients' joint norm to this", above=0),
    Option("backend", str, "numpy", "where arrays live", backend.NAMES),
    Option("dtype", str, "float32", "precision", ("float32", "float64")),
    Option("seed", int, 0, "everything random follows from it", least=0),
]

_PERCEPTRONS = [
    Option("hidden", int, (500,), "hidden units of each layer of the encoder; the decoder "
           "mirrors them", several=True, least=1, most=10 ** 6),
    Option("latent", int, 20, "dimensions of the code", least=1, most=10 ** 6),
    Option("activation", str, "tanh", "between linear layers", tuple(ACTIVATIONS)),
]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model that can be trained: `build(config, dataset, rng)`, and the data it wants."""

    summary: str
    options: list
    build: Callable
    encoding: Callable  # config -> the encoding its likelihood needs, None for a binary one
    defaults: dict = dataclasses.field(default_factory=dict)  # where TRAINING's do not suit


def _build_vae(config, dataset, rng):
    # The spread of the dequantisation noise: a pixel that never changes has no smaller one.
    floor = 1 / (dataset.levels * math.sqrt(12))
    return VAE(dataset.dim, rng, config["hidden"], config["latent"], config["likelihood"],
               config["posterior"], config["decoder_std"], floor,
               activation=config["activation"], beta=config["beta"], kl=config["kl"],
               pixel_means=dataset.pixel_means())


def _build_autoencoder(config, dataset, rng):
    return Autoencoder(dataset.dim, rng, config["hidden"], config["latent"],
                       config["likelihood"], config["activation"], dataset.pixel_means())


_LEVELS = Option("levels", int, 2, "grey levels of a pixel: 2 for binary images, or all that the "
                 "data set has", least=2, most=256)


def _levels_encoding(config):
    """Binary images for 2 levels; otherwise all the levels there are, or UsageError."""
    there = REGISTRY[config["dataset"]].levels
    if config["levels"] == 2:
        return None
    if config["levels"] != there:
        raise UsageError(f"--levels {config['levels']}: {config['dataset']} has {there} levels, "
                         f"choose 2 or {there}")
    return "levels"


def _log_odds(dataset):
    return dataset.log_odds() if dataset.binary else None


def _pixel_options(layers, width, first_kernel):
    return [Option("layers", int, layers, "layers after the first convolution", least=1,
                   most=1000),
            Option("width", int, width, "h, the maps inside a layer", least=1, most=10 ** 5),
            Option("first-kernel", int, first_kernel, "size of the first convolution, odd",
                   least=3, most=99)]


MODELS = {
    "vae": Entry(
        "the variational autoencoder (Kingma & Welling 2014)",
        [Option("likelihood", str, "bernoulli", "the decoder's distribution of a pixel",
                ("bernoulli", "gaussian")),
         *_PERCEPTRONS,
         Option("posterior", str, "normal", "the family of q(z|x)", tuple(POSTERIORS)),
         Option("decoder-std", str, "shared", "the gaussian decoder's spread: fixed at 0.1, one "
                "learned number, one for each pixel, or a network's output", DECODER_STDS),
         Option("beta", float, 1.0, "weight of the KL in training", least=0),
         Option("kl", str, "closed", "the KL in closed form or estimated",
                ("closed", "monte-carlo"))],
        _build_vae,
        lambda config: "dequantized" if config["likelihood"] == "gaussian" else None),
    "autoencoder": Entry(
        "the deterministic autoencoder: a code and its reconstruction, no likelihood",
        [Option("likelihood", str, "mse", "what the reconstruction is judged by: squared error "
                "of grey values, or the cross-entropy of binary pixels", ("mse", "bernoulli")),
         *_PERCEPTRONS],
        _build_autoencoder,
        lambda config: "grey" if config["likelihood"] == "mse" else None),
    "belief-net": Entry(
        "the fully visible sigmoid belief net (Frey, Hinton & Dayan 1996)",
        [_LEVELS],
        lambda config, dataset, rng: BeliefNet(dataset.dim, config["levels"], _log_odds(dataset)),
        _levels_encoding, {"batch-size": 20, "epochs": 200}),
    "nade": Entry(
        "NADE, the neural autoregressive distribution estimator (Larochelle & Murray 2011)",
        [_LEVELS,
         Option("hidden", int, 100, "hidden units", least=1, most=10 ** 6)],
        lambda config, dataset, rng: NADE(dataset.dim, rng, config["hidden"], config["levels"],
                                          _log_odds(dataset)),
        _levels_encoding, {"batch-size": 20, "epochs": 150}),
    "made": Entry(
        "MADE, the masked autoencoder (Germain et al. 2015)",
        [_LEVELS,
         Option("hidden", int, (200,), "hidden units of each layer", several=True, least=1,
                most=10 ** 6),
         Option("masks", int, 1, "how many wirings share the weights", least=1, most=1000),
         Option("order", str, "natural", "the order of the pixels: raster, or drawn once for "
                "each wiring", ORDERS)],
        lambda config, dataset, rng: MADE(dataset.dim, rng, config["hidden"], config["levels"],
                                          config["masks"], config["order"],
                                          _log_odds(dataset)),
        _levels_encoding, {"batch-size": 20, "epochs": 150}),
    "pixelcnn": Entry(
        "PixelCNN (van den Oord et al. 2016)",
        [_LEVELS, *_pixel_options(layers=3, width=32, first_kernel=5),
         Option("gated", bool, False, "two stacks of gated layers: no blind spot")],
        lambda config, dataset, rng: PixelCNN(
            dataset.shape, rng, config["levels"], dataset.channels, config["layers"],
            config["width"], config["first_kernel"], config["gated"]),
        _levels_encoding, {"batch-size": 20, "epochs": 60}),
    "pixelrnn": Entry(
        "PixelRNN, with Row LSTMs or Diagonal BiLSTMs (van den Oord et al. 2016)",
        [_LEVELS, Option("variant", str, "row", "which two-dimensional LSTM", tuple(VARIANTS)),
         *_pixel_options(layers=2, width=16, first_kernel=7)],
        lambda config, dataset, rng: PixelRNN(
            dataset.shape, rng, config["variant"], config["levels"], dataset.channels,
            config["layers"], config["width"], config["first_kernel"]),
        _levels_encoding, {"batch-size": 20, "epochs": 60, "lr": 2e-3}),
}


def options_of(name):
    """All options of a model with its defaults, training options first."""
    entry = MODELS[name]
    training = [dataclasses.replace(option, default=entry.defaults.get(option.name, option.default))
                for option in TRAINING]
    return training + entry.options


def check_options(name, options):
    """UsageError unless the model exists and every value is allowed."""
    if name not in MODELS:
        raise UsageError(f"unknown model {name!r}: choose one of {', '.join(MODELS)}")
    for option in options_of(name):
        key = option.name.replace("-", "_")
        if key in options:
            option.check(options[key])


def load_data(config, data_dir=None):
    """The data set of a config, in the encoding that the model's likelihood needs."""
    source = REGISTRY[config["dataset"]]
    binarize = config["binarize"]
    needed = MODELS[config["model"]].encoding(config)
    if needed and binarize:
        raise UsageError(f"--binarize {binarize} does not go with the other options: this model "
                         f"needs {needed} pixels")
    if binarize == "none" and source.levels > 2:
        raise UsageError(f"--binarize none: {source.name} has {source.levels} grey levels: choose "
                         "threshold, fixed or dynamic")
    if source.levels == 2 and (needed or binarize not in (None, "none")):
        raise UsageError(f"{source.name} was published as zeros and ones, it has no grey levels: "
                         "choose a model of binary pixels and leave --binarize out")
    encoding = needed or (binarize if binarize != "none" else None) or source.encoding
    if not needed and not ENCODINGS[encoding].binary:
        raise UsageError(f"this model needs binary pixels, {source.name} "
                         f"({encoding}) has none: give --binarize threshold, fixed or dynamic")
    return datasets.load(source.name, data_dir, encoding, config["seed"])


def build(config, dataset):
    """The untrained model of a config, on its backend and in its dtype: (model, xp, dtype)."""
    xp = backend.get(config["backend"])
    dtype = np.dtype(config["dtype"])
    rng = backend.generator(config["seed"], "weights")
    try:
        model = MODELS[config["model"]].build(config, dataset, rng)
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise UsageError(str(error)) from error
    return model.to(xp, dtype), xp, dtype
