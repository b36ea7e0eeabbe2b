"""What tests of PixelCNN and PixelRNN share: small random models, and what they see and draw."""

import itertools

import numpy as np

from scratchgen import backend
from scratchgen.models.pixelcnn import PixelCNN
from scratchgen.models.pixelrnn import PixelRNN
from scratchgen.tensor import Tensor, grad, no_grad

KINDS = {"plain": (PixelCNN, {}), "gated": (PixelCNN, {"gated": True}),
         "row": (PixelRNN, {"variant": "row"}), "diagonal": (PixelRNN, {"variant": "diagonal"})}


def random_model(kind, shape, seed=0, scale=0.5, dtype=np.float64, **options):
    """A small model with random weights, larger than those that training begins with."""
    model_class, variant = KINDS[kind]
    rng = np.random.default_rng(seed)
    options = {"width": 6, "head": 5, "layers": 2} | variant | options
    model = model_class(shape, rng, **options).to(dtype=dtype)
    for parameter in model.parameters():
        parameter.data[...] = scale * rng.standard_normal(parameter.shape)
    return model


def total_probability(model):
    """The sum of p(x) over all images."""
    images = np.array(list(itertools.product(range(model.levels), repeat=model.dim)), dtype=float)
    with no_grad():
        return np.exp(model.log_prob(images).data).sum()


def impulse_sets(models):
    """[i, k]: whether the logits of sub-pixel i move with sub-pixel k, in one model or another.

    In copy i of an image only the logits of i are looked at: one gradient has all sets.
    """
    found = False
    for seed, model in enumerate(models):
        rng = np.random.default_rng(seed)
        x = Tensor(np.tile(rng.random(model.dim) * (model.levels - 1), (model.dim, 1)))
        logits = model.logits(x)
        own = np.eye(model.dim).reshape((model.dim, model.dim) + (1,) * (logits.ndim - 2))
        found |= grad(logits, x, own * rng.standard_normal(logits.shape)) != 0
    return found


def contexts(model):
    return np.array([model.context(i) for i in range(model.dim)])


def recorded(model, draw):
    """The images that `draw` returns, and the logits that each sub-pixel was drawn from."""
    seen = []
    original = model.draw

    def recording(values, u):
        seen.append(backend.to_numpy(values).copy())
        return original(values, u)
    model.draw = recording
    try:
        return backend.to_numpy(draw()), np.array(seen)
    finally:
        del model.draw


def both_ways(model, draw):
    """Fast and naive images and logits, from generators of one seed."""
    return [recorded(model, lambda: draw(np.random.default_rng(3), naive))
            for naive in (False, True)]
