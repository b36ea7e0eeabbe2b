"""PixelRNN, row and diagonal: what it sees, and its sizes. The rest: test_pixel_models.py."""

import itertools

import numpy as np
import pytest
from pixel_helpers import contexts, impulse_sets, random_model, total_probability

from scratchgen import ops
from scratchgen.models.pixelrnn import PixelRNN
from scratchgen.nn.module import Module
from scratchgen.nn.pixel_recurrent import diagonal_bilstm, row_lstm
from scratchgen.tensor import grad

VARIANTS = pytest.mark.parametrize("variant", ["row", "diagonal"])


# ---------------------------------------------------------------------------- probabilities


# ------------------------------------------------------------------- layers that see too much


class Unshifted(Module):
    """A Diagonal BiLSTM whose map from the right is added without being moved down."""

    def __init__(self, layer):
        self.layer = layer

    def forward(self, x):
        # A direction whose weights are all zero gives a map of zeros: h = o tanh(0).
        only_left, only_right = np.array([1.0, 0.0]), np.array([0.0, 1.0])
        from_left = self.direction(x, only_left)
        below = ops.pad(x, width=((0, 0), (0, 1), (0, 0), (0, 0)))
        return from_left + self.direction(below, only_right)[:, 1:]

    def direction(self, x, which):
        return diagonal_bilstm(x, *[weight.data * which.reshape((2,) + (1,) * (weight.ndim - 1))
                                    for weight in self.layer.weights()])


class FromBelow(Module):
    """A Diagonal BiLSTM whose states see the rows i and i + 1 in place of i and i - 1."""

    def __init__(self, layer):
        self.layer = layer

    def forward(self, x):
        return ops.flip(self.layer(ops.flip(x, axis=1)), axis=1)


class FromTheRight(Module):
    """A Row LSTM whose inputs are the centre and the right in place of the left."""

    def __init__(self, layer):
        self.layer = layer

    def forward(self, x):
        return ops.flip(row_lstm(ops.flip(x, axis=2), *self.layer.weights()), axis=2)


LEAKS = pytest.mark.parametrize("variant, leak", [
    ("diagonal", Unshifted), ("diagonal", FromBelow), ("row", FromBelow), ("row", FromTheRight)])


def leaking(shape, variant, leak, **options):
    model = random_model(variant, shape, first_kernel=3, **options)
    for layer in model.stack.layers:
        layer.lstm = leak(layer.lstm)
    return model


@LEAKS
def test_probabilities_of_a_leaking_model_do_not_sum_to_one(variant, leak):
    assert abs(total_probability(leaking((3, 3), variant, leak)) - 1) > 1e-3


# -------------------------------------------------------------------------- what a pixel sees


def in_references(i, j, row, column, width, variant, r, layers):
    """The published sets (REFERENCES.md): can pixel (i, j) depend on pixel (row, column)?"""
    dy, dx = i - row, column - j
    if variant == "diagonal":
        unseen = (row, column) == (i - 1, width - 1) and j < width - 1 - r
        return (row, column) < (i, j) and not unseen
    if dy == 0:
        return 1 <= -dx <= r + layers
    return dy >= 1 and -dx <= r + layers + dy and dx <= r + dy - 1


def reachable(shape, variant, r, layers):
    """[i, k] by walking back from pixel i through layers and states, inside the image.

    A node is (layer, row, column, which): the maps below a layer ("map"), or a layer's states.
    """
    height, width = shape

    def before(layer, i, j, which):
        if layer == 0:  # the first convolution
            return [("image", i + a, j + b, "") for a in range(-r, 1) for b in range(-r, r + 1)
                    if a < 0 or b < 0]
        if which == "map":  # the residual connection, and the layer's own states
            nodes = [(layer - 1, i, j, "map"), (layer, i, j, "left")]
            return nodes + [(layer, i - 1, j, "right")] * (variant == "diagonal")
        if variant == "row":
            nodes = [(layer - 1, i, j + b, "map") for b in (-1, 0)]
            return nodes + [(layer, i - 1, j + b, which) for b in (-1, 0, 1)]
        beside = j - 1 if which == "left" else j + 1
        return [(layer - 1, i, j, "map"), (layer, i - 1, j, which), (layer, i, beside, which)]

    sets = []
    for place in itertools.product(range(height), range(width)):
        nodes, seen = [(layers, *place, "map")], set()
        while nodes:
            node = nodes.pop()
            _, i, j, _ = node
            if node not in seen and 0 <= i < height and 0 <= j < width:
                seen.add(node)
                nodes += before(*node) if node[0] != "image" else []
        sets.append([("image", *pixel, "") in seen
                     for pixel in itertools.product(range(height), range(width))])
    return np.array(sets)


@VARIANTS
@pytest.mark.parametrize("r", [1, 3])
@pytest.mark.parametrize("layers", [1, 2])
def test_dependency_sets(r, layers, variant):
    shape = (7, 7)
    models = [random_model(variant, shape, seed, first_kernel=2 * r + 1, layers=layers)
              for seed in range(6)]
    pixels = list(itertools.product(range(7), range(7)))
    expected = np.array([[in_references(*pixel, *other, 7, variant, r, layers)
                          for other in pixels] for pixel in pixels])
    assert np.array_equal(reachable(shape, variant, r, layers), expected)
    assert np.array_equal(contexts(models[0]), expected)
    assert np.array_equal(impulse_sets(models), expected)


def test_the_shapes_of_the_sets():
    row = random_model("row", (7, 7), first_kernel=3, layers=1).context(5 * 7 + 3).reshape(7, 7)
    # The triangle, its tip at (5, 3): one pixel wider for each row, to both sides.
    assert ["".join(".x"[int(seen)] for seen in line) for line in row] == [
        "xxxxxxx", "xxxxxxx", "xxxxxxx", "xxxxxx.", "xxxxx..", ".xx....", "......."]
    diagonal = random_model("diagonal", (7, 7), first_kernel=3, layers=1)
    unseen = np.tril(np.ones((49, 49), dtype=bool), -1) & ~contexts(diagonal)
    # The last pixel of the row above, for all but the first row and the last two columns.
    assert {(i // 7, i % 7, k // 7, k % 7) for i, k in np.argwhere(unseen)} == {
        (i, j, i - 1, 6) for i in range(1, 7) for j in range(5)}


@LEAKS
def test_the_dependency_test_finds_leaks(variant, leak):
    model = leaking((7, 7), variant, leak, layers=1)
    leaked = impulse_sets([model]) & ~contexts(model)
    assert leaked.any()
    assert not np.array_equal(leaked, np.tril(leaked, -1)), "it sees the future"


@VARIANTS
def test_masked_weights_of_a_colour_model_get_no_gradient(rng, variant):
    model = random_model(variant, (3, 4), levels=3, channels=3)
    x = rng.integers(0, 3, (4, 36)).astype(float)
    layers = [module for module in model.modules() if module.constants]
    weights = [layer.weight if hasattr(layer, "weight") else layer.weight_is for layer in layers]
    assert len(layers) == 1 + 2 * 2 + 3
    for layer, g in zip(layers, grad(model.loss(x, None), weights)):
        mask = np.broadcast_to(layer.mask, g.shape)
        assert (g[mask == 0] == 0).all()
        assert (g[mask == 1] != 0).any()


def test_the_papers_sizes(rng):
    model = PixelRNN((28, 28), rng, "diagonal", layers=7, width=16)
    sizes = {name: p.shape for name, p in model.named_parameters()}
    assert sizes["stack.first.weight"] == (24, 1, 32)
    assert sizes["stack.layers.6.lstm.weight_is"] == (2, 32, 64)
    assert sizes["stack.layers.6.lstm.weight_ss"] == (2, 2, 16, 64)
    assert sizes["stack.layers.6.up.weight"] == (1, 16, 32)
    assert [sizes[f"head.{k}.weight"] for k in range(3)] == [(1, 32, 32), (1, 32, 32), (1, 32, 1)]
    assert "stack.layers.7.up.weight" not in sizes
    row = PixelRNN((4, 4), rng, "row", levels=256, channels=3)
    assert row.stack.layers[0].lstm.weight_ss.shape == (3, 16, 64)
    assert row.logits(rng.integers(0, 256, (2, 48)).astype("f")).shape == (2, 48, 256)


@VARIANTS
def test_a_layer_adds_its_input_once(rng, variant):
    model = random_model(variant, (3, 3), layers=1)
    up = model.stack.layers[0].up
    up.weight.data[...] = up.bias.data[...] = 0
    x = rng.random((2, 3, 3, 1))
    np.testing.assert_array_equal(model.stack(x).data, model.stack.first(x).data)


@pytest.mark.parametrize("call, words", [
    (lambda rng: PixelRNN((4, 4), rng, "column"), "'column': choose row or diagonal"),
    (lambda rng: PixelRNN((4, 4), rng, first_kernel=6), "must be odd, not 6"),
    (lambda rng: PixelRNN((4, 4), rng, first_kernel=1), "sees no neighbour: take 3 or more"),
    (lambda rng: PixelRNN((4, 4), rng, levels=1), "levels must be at least 2"),
    (lambda rng: PixelRNN((4, 4), rng, channels=3, width=2), "2 feature maps cannot be split"),
    (lambda rng: PixelRNN((4,), rng), r"the shape must be \(H, W\)"),
    (lambda rng: PixelRNN((4, 4), rng, layers=0), "all at least 1"),
    (lambda rng: PixelRNN((4, 4), rng).log_prob(np.zeros((2, 15), "f")), "15 numbers"),
    (lambda rng: PixelRNN((4, 4), rng, levels=3).log_prob(np.full((2, 16), 3, "f")), "outside"),
    (lambda rng: PixelRNN((4, 4), rng).complete(np.zeros((2, 16), "f"), np.ones(9), rng),
     "mask has 9 numbers")])
def test_bad_input_is_refused_in_one_line(rng, call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call(rng)
    assert "\n" not in str(caught.value)
