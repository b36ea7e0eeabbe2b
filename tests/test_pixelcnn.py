"""PixelCNN, plain and gated: what it sees, and its sizes. The rest: test_pixel_models.py."""

import itertools

import numpy as np
import pytest
from pixel_helpers import contexts, impulse_sets, random_model, total_probability

from scratchgen.models.pixelcnn import PixelCNN
from scratchgen.nn.masked import MaskedConv2d
from scratchgen.tensor import grad

VARIANTS = pytest.mark.parametrize("kind", ["plain", "gated"])
WORLDS = [((3, 3), 2, 1), ((2, 2), 3, 1), ((1, 2), 2, 3)]  # shape, levels, channels


@VARIANTS
@pytest.mark.parametrize("shape, levels, channels", WORLDS)
def test_probabilities_of_a_leaking_model_do_not(shape, levels, channels, kind):
    model = leaking(kind, shape, levels=levels, channels=channels)
    assert abs(total_probability(model) - 1) > 1e-3


def leaking(kind, shape, **options):
    """A model whose first layer has mask B: every sub-pixel sees itself."""
    model = random_model(kind, shape, first_kernel=3, **options)
    rng = np.random.default_rng(1)
    channels, width = model.channels, 6
    if kind == "gated":
        first = MaskedConv2d(channels, 2 * width, 3, rng, "B", "horizontal", channels, parts=2)
        model.stack.layers[0].horizontal = first.to(dtype=np.float64)
    else:
        first = MaskedConv2d(channels, 2 * width, 3, rng, "B", colours=channels)
        model.stack.first = first.to(dtype=np.float64)
    first.weight.data *= 5
    return model


# -------------------------------------------------------------------------- what a pixel sees


def in_references(up, right, r, layers, kind):
    """The published set (REFERENCES.md), for a pixel `up` rows above, `right` columns right."""
    if up == 0:
        return 1 <= -right <= r + layers
    if kind == "gated":
        return 1 <= up <= r + layers + 1 and abs(right) <= r + layers
    return 1 <= up <= r + layers and -right <= r + layers and right <= min(r + up - 1, r + layers)


def reachable(shape, r, layers, kind):
    """[i, k] by walking the taps back from pixel i, layer by layer, inside the image."""
    height, width = shape

    def step(places, kernel, vertical_too, centre):
        rows = range(-(kernel // 2), 1) if vertical_too else [0]
        found = set()
        for i, j in places:
            for a, b in itertools.product(rows, range(-(kernel // 2), kernel // 2 + 1)):
                if (a < 0 or b < centre) and 0 <= i + a and 0 <= j + b < width:
                    found.add((i + a, j + b))
        return found

    def whole_rows(places, kernel):
        r = kernel // 2
        return {(i + a, j + b) for i, j in places for a in range(-r, 1) for b in range(-r, r + 1)
                if 0 <= i + a and 0 <= j + b < width}

    sets = []
    for place in itertools.product(range(height), range(width)):
        kernels = [3] * layers + [2 * r + 1]
        if kind == "plain":
            places = {place}
            for k, kernel in enumerate(kernels):
                places = step(places, kernel, True, 0 if k == layers else 1)
        else:
            horizontal, vertical = {place}, set()
            for k, kernel in enumerate(kernels):
                vertical |= {(i - 1, j) for i, j in horizontal if i > 0}
                vertical = whole_rows(vertical, kernel)
                horizontal = step(horizontal, kernel, False, 0 if k == layers else 1)
            places = horizontal | vertical
        sets.append([p in places for p in itertools.product(range(height), range(width))])
    return np.array(sets)


@VARIANTS
@pytest.mark.parametrize("r", [1, 3])
@pytest.mark.parametrize("layers", [1, 2])
def test_dependency_sets(r, layers, kind):
    shape = (7, 7)
    models = [random_model(kind, shape, seed, first_kernel=2 * r + 1, layers=layers)
              for seed in range(4)]
    expected = np.array([[in_references(i - k, column - j, r, layers, kind)
                          for k in range(7) for column in range(7)]
                         for i in range(7) for j in range(7)])
    assert np.array_equal(reachable(shape, r, layers, kind), expected)
    assert np.array_equal(contexts(models[0]), expected)
    assert np.array_equal(impulse_sets(models), expected)


def test_the_plain_stack_has_a_blind_spot_and_the_gated_one_none_if_deep_enough():
    everything = np.tril(np.ones((49, 49), dtype=bool), -1)
    for r, layers in [(1, 5), (3, 3)]:
        options = {"first_kernel": 2 * r + 1, "layers": layers}
        plain = random_model("plain", (7, 7), **options)
        assert contexts(plain).sum() < everything.sum()
        gated = [random_model("gated", (7, 7), seed, **options) for seed in range(4)]
        assert np.array_equal(impulse_sets(gated), everything)
        assert np.array_equal(contexts(gated[0]), everything)
        options["layers"] -= 1
        assert not np.array_equal(contexts(random_model("gated", (7, 7), **options)),
                                  everything)


@VARIANTS
def test_the_dependency_test_finds_a_leak_of_one_pixel(kind):
    model = leaking(kind, (7, 7))
    leaked = impulse_sets([model]) & ~contexts(model)
    assert np.array_equal(np.diag(leaked), np.ones(49, dtype=bool))


# ----------------------------------------------------------------------- construction


def test_masked_weights_of_a_colour_model_get_no_gradient(rng):
    model = random_model("plain", (3, 4), levels=3, channels=3)
    x = rng.integers(0, 3, (4, 36)).astype(float)
    layers = [module for module in model.modules() if module.constants]
    for layer, g in zip(layers, grad(model.loss(x, None), [layer.weight for layer in layers])):
        assert (g[layer.mask == 0] == 0).all()
        assert (g[layer.mask == 1] != 0).any()


def test_the_papers_sizes(rng):
    model = PixelCNN((28, 28), rng)
    sizes = {name: p.shape for name, p in model.named_parameters()}
    assert sizes["stack.first.weight"] == (24, 1, 64)
    assert sizes["stack.blocks.6.reduce.weight"] == (1, 64, 32)
    assert sizes["stack.blocks.6.middle.weight"] == (5, 32, 32)
    assert sizes["stack.blocks.6.expand.weight"] == (1, 32, 64)
    assert [sizes[f"head.{k}.weight"] for k in range(3)] == [(1, 64, 32), (1, 32, 32), (1, 32, 1)]
    assert "stack.blocks.7.reduce.weight" not in sizes
    assert PixelCNN((4, 4), rng, levels=256, channels=3).logits(
        rng.integers(0, 256, (2, 48)).astype("f")).shape == (2, 48, 256)


def test_a_block_adds_its_input_once(rng):
    model = random_model("plain", (3, 3), layers=1)
    for layer in (model.stack.blocks[0].expand, model.stack.first):
        layer.bias.data[...] = 0
    model.stack.blocks[0].expand.weight.data[...] = 0
    x = rng.random((2, 3, 3, 1))
    np.testing.assert_array_equal(model.stack(x).data, model.stack.first(x).data)


@pytest.mark.parametrize("call, words", [
    (lambda rng: PixelCNN((4, 4), rng, first_kernel=6), "must be odd, not 6"),
    (lambda rng: PixelCNN((4, 4), rng, first_kernel=1), "sees nothing"),
    (lambda rng: PixelCNN((4, 4), rng, levels=1), "levels must be at least 2"),
    (lambda rng: PixelCNN((4, 4), rng, channels=3, width=2), "2 feature maps cannot be split"),
    (lambda rng: PixelCNN((4,), rng), r"the shape must be \(H, W\)"),
    (lambda rng: PixelCNN((4, 4), rng, layers=0), "all at least 1"),
    (lambda rng: PixelCNN((4, 4), rng).log_prob(np.zeros((2, 15), "f")), "15 numbers"),
    (lambda rng: PixelCNN((4, 4), rng, levels=3).log_prob(np.full((2, 16), 3, "f")), "outside"),
    (lambda rng: PixelCNN((4, 4), rng).complete(np.zeros((2, 16), "f"), np.ones(9), rng),
     "mask has 9 numbers")])
def test_bad_input_is_refused_in_one_line(rng, call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call(rng)
    assert "\n" not in str(caught.value)
