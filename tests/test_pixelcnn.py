"""PixelCNN, plain and gated: it is a distribution, sees what it should, and samples fast."""

import itertools

import numpy as np
import pytest

from scratchgen import backend
from scratchgen.check import check_grads
from scratchgen.gradcheck import functional
from scratchgen.models.pixelcnn import PixelCNN
from scratchgen.nn.masked import MaskedConv2d
from scratchgen.tensor import grad, no_grad

VARIANTS = pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])


def random_model(shape, seed=0, scale=0.5, dtype=np.float64, **options):
    """A small model with random weights, larger than those that training begins with."""
    rng = np.random.default_rng(seed)
    options = {"width": 6, "head": 5, "layers": 2} | options
    model = PixelCNN(shape, rng, **options).to(dtype=dtype)
    for parameter in model.parameters():
        parameter.data[...] = scale * rng.standard_normal(parameter.shape)
    return model


def logits(model, x):
    with no_grad():
        return backend.to_numpy(model.logits(x).data)


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
def test_probabilities_sum_to_one(shape, levels, channels, kernel, gated):
    for seed in range(3):
        model = random_model(shape, seed, levels=levels, channels=channels, gated=gated,
                             first_kernel=kernel)
        assert abs(total_probability(model) - 1) < 1e-9


@VARIANTS
@pytest.mark.parametrize("shape, levels, channels", WORLDS)
def test_probabilities_of_a_leaking_model_do_not(shape, levels, channels, gated):
    model = leaking(gated, shape, levels=levels, channels=channels)
    assert abs(total_probability(model) - 1) > 1e-3


def leaking(gated, shape, **options):
    """A model whose first layer has mask B: every sub-pixel sees itself."""
    model = random_model(shape, gated=gated, first_kernel=3, **options)
    rng = np.random.default_rng(1)
    channels, width = model.channels, 6
    if gated:
        first = MaskedConv2d(channels, 2 * width, 3, rng, "B", "horizontal", channels, parts=2)
        model.stack.layers[0].horizontal = first.to(dtype=np.float64)
    else:
        first = MaskedConv2d(channels, 2 * width, 3, rng, "B", colours=channels)
        model.stack.first = first.to(dtype=np.float64)
    first.weight.data *= 5
    return model


# -------------------------------------------------------------------------- what a pixel sees


def impulse_sets(models):
    """[i, k]: whether changing sub-pixel k changes the logits of i, in one model or another."""
    found = False
    for model in models:
        x = np.random.default_rng(2).random((1, model.dim)) * (model.levels - 1)
        moved = x + np.eye(model.dim)
        before, after = logits(model, x), logits(model, moved)
        changed = (after != before).reshape(model.dim, model.dim, -1).any(axis=2)
        found |= changed.T
    return found


def contexts(model):
    return np.array([model.context(i) for i in range(model.dim)])


def in_references(up, right, r, layers, gated):
    """The published set (REFERENCES.md), for a pixel `up` rows above, `right` columns right."""
    if up == 0:
        return 1 <= -right <= r + layers
    if gated:
        return 1 <= up <= r + layers + 1 and abs(right) <= r + layers
    return 1 <= up <= r + layers and -right <= r + layers and right <= min(r + up - 1, r + layers)


def reachable(shape, r, layers, gated):
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
        if not gated:
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
def test_dependency_sets(r, layers, gated):
    shape = (7, 7)
    models = [random_model(shape, seed, gated=gated, first_kernel=2 * r + 1, layers=layers)
              for seed in range(4)]
    expected = np.array([[in_references(i - k, column - j, r, layers, gated)
                          for k in range(7) for column in range(7)]
                         for i in range(7) for j in range(7)])
    assert np.array_equal(reachable(shape, r, layers, gated), expected)
    assert np.array_equal(contexts(models[0]), expected)
    assert np.array_equal(impulse_sets(models), expected)


def test_the_plain_stack_has_a_blind_spot_and_the_gated_one_none_if_deep_enough():
    everything = np.tril(np.ones((49, 49), dtype=bool), -1)
    for r, layers in [(1, 5), (3, 3)]:
        options = {"first_kernel": 2 * r + 1, "layers": layers}
        plain = random_model((7, 7), **options)
        assert contexts(plain).sum() < everything.sum()
        gated = [random_model((7, 7), seed, gated=True, **options) for seed in (0, 1)]
        assert np.array_equal(impulse_sets(gated), everything)
        assert np.array_equal(contexts(gated[0]), everything)
        options["layers"] -= 1
        assert not np.array_equal(contexts(random_model((7, 7), gated=True, **options)),
                                  everything)


@VARIANTS
@pytest.mark.parametrize("levels", [2, 4])
def test_dependency_sets_of_colours(gated, levels):
    models = [random_model((3, 4), seed, gated=gated, channels=3, levels=levels, first_kernel=3,
                           width=12, head=12) for seed in range(4)]
    found = impulse_sets(models)
    assert np.array_equal(found, contexts(models[0]))
    # In one pixel green sees red, and blue sees both.
    assert found[15:18, 15:18].tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert np.array_equal(found[::3, ::3], contexts(random_model((3, 4), gated=gated,
                                                                 first_kernel=3)))


@VARIANTS
def test_the_dependency_test_finds_a_leak_of_one_pixel(gated):
    model = leaking(gated, (7, 7))
    leaked = impulse_sets([model]) & ~contexts(model)
    assert np.array_equal(np.diag(leaked), np.ones(49, dtype=bool))


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


SAMPLED = [((7, 6), 2, 1, 3), ((5, 7), 17, 1, 7), ((4, 5), 4, 3, 5)]


def both_ways(model, draw):
    """Fast and naive images and logits, from generators of one seed."""
    return [recorded(model, lambda: draw(np.random.default_rng(3), naive))
            for naive in (False, True)]


@VARIANTS
@pytest.mark.parametrize("shape, levels, channels, kernel", SAMPLED)
def test_fast_sampler_draws_the_naive_ones_images(xp, gated, shape, levels, channels, kernel):
    for dtype, tolerance in [(np.float64, 1e-10), (np.float32, 1e-4)]:
        model = random_model(shape, levels=levels, channels=channels, gated=gated, layers=3,
                             first_kernel=kernel, scale=0.4)
        model.to(xp, dtype)
        (fast, a), (naive, b) = both_ways(model, lambda rng, naive:
                                          model.sample(5, rng, naive=naive))
        assert np.array_equal(fast, naive)
        assert np.abs(a - b).max() < tolerance
        assert len(np.unique(fast)) == levels


@VARIANTS
@pytest.mark.parametrize("channels", [1, 3])
def test_completion_is_the_naive_one_too(rng, gated, channels):
    model = random_model((5, 4), levels=3, channels=channels, gated=gated)
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


def test_samples_follow_the_distribution():
    model = random_model((2, 2), scale=0.8)
    images = np.array(list(itertools.product(range(2), repeat=4)), dtype=float)
    with no_grad():
        p = np.exp(model.log_prob(images).data)
    n = 20000
    drawn = model.sample(n, np.random.default_rng(0))
    counts = np.bincount((drawn @ [8, 4, 2, 1]).astype(int), minlength=16)
    chi_square = ((counts - n * p) ** 2 / (n * p)).sum()
    assert chi_square < 37.7  # 15 degrees of freedom, one in a thousand


def test_progress_is_reported_for_every_drawn_sub_pixel(rng):
    class Count:
        updates = 0

        def update(self):
            self.updates += 1
    for options in ({}, {"gated": True}):
        model, count = random_model((3, 4), channels=3, **options), Count()
        model.complete(np.zeros((2, 36)), np.arange(36) < 20, rng, progress=count)
        assert count.updates == 16


# ------------------------------------------------------------------- gradients, construction


@VARIANTS
@pytest.mark.parametrize("levels, channels", [(2, 1), (5, 1), (3, 3)])
def test_gradient_of_the_objective(xp, rng, gated, levels, channels):
    # Small: every relu has a kink, and the check needs a point that is near none of them.
    model = random_model((2, 3), levels=levels, channels=channels, gated=gated, width=3, head=3,
                         layers=1, first_kernel=3).to(xp)
    x = xp.asarray(rng.integers(0, levels, (2, model.dim)).astype(float))
    check_grads(functional(model, lambda: model.loss(x, None)),
                *[parameter.data for parameter in model.parameters()], repeats=1)


def test_masked_weights_of_a_colour_model_get_no_gradient(rng):
    model = random_model((3, 4), levels=3, channels=3)
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
    model = random_model((3, 3), layers=1)
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
