"""PixelRNN, row and diagonal: it is a distribution, sees what it should, and samples fast."""

import itertools

import numpy as np
import pytest

from scratchgen import backend, ops
from scratchgen.check import check_grads
from scratchgen.gradcheck import functional
from scratchgen.models.pixelrnn import PixelRNN
from scratchgen.nn.module import Module
from scratchgen.nn.pixel_recurrent import diagonal_bilstm, row_lstm
from scratchgen.tensor import Tensor, grad, no_grad

VARIANTS = pytest.mark.parametrize("variant", ["row", "diagonal"])


def random_model(shape, variant, seed=0, scale=0.5, dtype=np.float64, **options):
    """A small model with random weights, larger than those that training begins with."""
    rng = np.random.default_rng(seed)
    options = {"width": 6, "head": 5, "layers": 2} | options
    model = PixelRNN(shape, rng, variant, **options).to(dtype=dtype)
    for parameter in model.parameters():
        parameter.data[...] = scale * rng.standard_normal(parameter.shape)
    return model


# ---------------------------------------------------------------------------- probabilities


def total_probability(model):
    """The sum of p(x) over all images."""
    images = np.array(list(itertools.product(range(model.levels), repeat=model.dim)), dtype=float)
    with no_grad():
        return np.exp(model.log_prob(images).data).sum()


WORLDS = [((3, 3), 2, 1), ((2, 2), 3, 1), ((1, 2), 2, 3)]  # shape, levels, channels


@VARIANTS
@pytest.mark.parametrize("shape, levels, channels", WORLDS)
@pytest.mark.parametrize("kernel", [3, 7])
def test_probabilities_sum_to_one(shape, levels, channels, kernel, variant):
    for seed in range(3):
        model = random_model(shape, variant, seed, scale=0.9, levels=levels, channels=channels,
                             first_kernel=kernel)
        assert abs(total_probability(model) - 1) < 1e-9


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
    model = random_model(shape, variant, first_kernel=3, **options)
    for layer in model.stack.layers:
        layer.lstm = leak(layer.lstm)
    return model


@LEAKS
def test_probabilities_of_a_leaking_model_do_not_sum_to_one(variant, leak):
    assert abs(total_probability(leaking((3, 3), variant, leak)) - 1) > 1e-3


# -------------------------------------------------------------------------- what a pixel sees


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
    models = [random_model(shape, variant, seed, first_kernel=2 * r + 1, layers=layers)
              for seed in range(6)]
    pixels = list(itertools.product(range(7), range(7)))
    expected = np.array([[in_references(*pixel, *other, 7, variant, r, layers)
                          for other in pixels] for pixel in pixels])
    assert np.array_equal(reachable(shape, variant, r, layers), expected)
    assert np.array_equal(contexts(models[0]), expected)
    assert np.array_equal(impulse_sets(models), expected)


def test_the_shapes_of_the_sets():
    row = random_model((7, 7), "row", first_kernel=3, layers=1).context(5 * 7 + 3).reshape(7, 7)
    # The triangle, its tip at (5, 3): one pixel wider for each row, to both sides.
    assert ["".join(".x"[int(seen)] for seen in line) for line in row] == [
        "xxxxxxx", "xxxxxxx", "xxxxxxx", "xxxxxx.", "xxxxx..", ".xx....", "......."]
    diagonal = random_model((7, 7), "diagonal", first_kernel=3, layers=1)
    unseen = np.tril(np.ones((49, 49), dtype=bool), -1) & ~contexts(diagonal)
    # The last pixel of the row above, for all but the first row and the last two columns.
    assert {(i // 7, i % 7, k // 7, k % 7) for i, k in np.argwhere(unseen)} == {
        (i, j, i - 1, 6) for i in range(1, 7) for j in range(5)}


@VARIANTS
@pytest.mark.parametrize("levels", [2, 4])
def test_dependency_sets_of_colours(variant, levels):
    models = [random_model((3, 5), variant, seed, channels=3, levels=levels, first_kernel=3,
                           width=12, head=24) for seed in range(6)]
    found = impulse_sets(models)
    assert np.array_equal(found, contexts(models[0]))
    # In one pixel green sees red, and blue sees both.
    assert found[15:18, 15:18].tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    if variant == "diagonal":
        # Of the unseen pixel only blue is unseen: green's and blue's features saw the others.
        assert found[15, 12:15].tolist() == [True, True, False]


@LEAKS
def test_the_dependency_test_finds_leaks(variant, leak):
    model = leaking((7, 7), variant, leak, layers=1)
    leaked = impulse_sets([model]) & ~contexts(model)
    assert leaked.any()
    assert not np.array_equal(leaked, np.tril(leaked, -1)), "it sees the future"


# --------------------------------------------------------------------------------- sampling


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


SAMPLED = [((7, 6), 2, 1, 3), ((4, 5), 17, 1, 7), ((3, 4), 4, 3, 5)]


@VARIANTS
@pytest.mark.parametrize("shape, levels, channels, kernel", SAMPLED)
def test_fast_sampler_draws_the_naive_ones_images(xp, variant, shape, levels, channels, kernel):
    for dtype, tolerance in [(np.float64, 1e-10), (np.float32, 1e-4)]:
        model = random_model(shape, variant, levels=levels, channels=channels,
                             first_kernel=kernel, scale=0.4)
        model.to(xp, dtype)
        (fast, a), (naive, b) = both_ways(model, lambda rng, naive:
                                          model.sample(7, rng, naive=naive))
        assert np.array_equal(fast, naive)
        assert np.abs(a - b).max() < tolerance
        assert (fast.min(), fast.max()) == (0, levels - 1)


@VARIANTS
@pytest.mark.parametrize("channels", [1, 3])
def test_completion_is_the_naive_one_too(rng, variant, channels):
    model = random_model((5, 4), variant, levels=3, channels=channels)
    x = rng.integers(0, 3, (4, model.dim)).astype(float)
    below, scattered = np.arange(model.dim) < 30, rng.random(model.dim) < 0.5
    everything = np.ones(model.dim, dtype=bool)
    for observed in (below, scattered, everything, ~everything):
        (fast, a), (naive, b) = both_ways(model, lambda rng, naive:
                                          model.complete(x, observed, rng, naive=naive))
        assert np.array_equal(fast, naive)
        assert len(a) == len(b) == (~observed).sum()
        assert not len(a) or np.abs(a - b).max() < 1e-10
        assert np.array_equal(fast[:, observed], x[:, observed])


@VARIANTS
def test_progress_is_reported_for_every_drawn_sub_pixel(rng, variant):
    class Count:
        updates = 0

        def update(self):
            self.updates += 1
    model, count = random_model((3, 4), variant, channels=3), Count()
    model.complete(np.zeros((2, 36)), np.arange(36) < 20, rng, progress=count)
    assert count.updates == 16


# ------------------------------------------------------------------- gradients, construction


@VARIANTS
@pytest.mark.parametrize("levels, channels", [(2, 1), (5, 1), (3, 3)])
def test_gradient_of_the_objective(xp, rng, variant, levels, channels):
    # Small: every relu has a kink, and the check needs a point that is near none of them.
    model = random_model((2, 3), variant, levels=levels, channels=channels, width=3, head=3,
                         layers=1, first_kernel=3).to(xp)
    x = xp.asarray(rng.integers(0, levels, (2, model.dim)).astype(float))
    check_grads(functional(model, lambda: model.loss(x, None)),
                *[parameter.data for parameter in model.parameters()], repeats=1)


@VARIANTS
def test_masked_weights_of_a_colour_model_get_no_gradient(rng, variant):
    model = random_model((3, 4), variant, levels=3, channels=3)
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
    model = random_model((3, 3), variant, layers=1)
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
