"""The chain-rule models without convolutions: belief net, NADE, MADE. Exact on tiny worlds."""

import itertools

import numpy as np
import pytest

from scratchgen import backend, catalog
from scratchgen.check import check_grads
from scratchgen.evaluate import independent_pixels
from scratchgen.gradcheck import functional
from scratchgen.models.belief_net import BeliefNet
from scratchgen.models.made import MADE
from scratchgen.models.nade import NADE, nade_logits, nade_logits_twin
from scratchgen.tensor import Tensor, grad, no_grad, raw

MODELS = {
    "belief net": lambda dim, levels, rng: BeliefNet(dim, levels),
    "nade": lambda dim, levels, rng: NADE(dim, rng, 7, levels),
    "made": lambda dim, levels, rng: MADE(dim, rng, (11,), levels),
    "deep made": lambda dim, levels, rng: MADE(dim, rng, (11, 13), levels, order="random"),
    "made ensemble": lambda dim, levels, rng: MADE(dim, rng, (11,), levels, 3, "random"),
}


def random_model(name, dim, levels, seed=0, xp=np, dtype=np.float64):
    """A model far from its start: weights of order one."""
    rng = np.random.default_rng(seed)
    model = MODELS[name](dim, levels, rng)
    for parameter in model.parameters():
        parameter.data = (1.5 * rng.standard_normal(parameter.shape)).astype(np.float32)
    return model.to(xp, dtype)


def every_image(dim, levels):
    return np.array(list(itertools.product(range(levels), repeat=dim)), dtype=np.float64)


@pytest.mark.parametrize("dim, levels", [(9, 2), (4, 3)])
@pytest.mark.parametrize("name", MODELS)
def test_probabilities_sum_to_one(name, dim, levels):
    model = random_model(name, dim, levels)
    with no_grad():
        log_p = model.log_prob(every_image(dim, levels)).data
    assert abs(np.exp(log_p).sum() - 1) < 1e-9
    assert log_p.std() > 1  # not the uniform distribution, which would always sum to one


def test_the_normalisation_test_can_fail():
    model = random_model("belief net", 9, 2)
    model.mask[2, 7] = 1  # a pixel that sees the future
    with no_grad():
        total = np.exp(model.log_prob(every_image(9, 2)).data).sum()
    assert abs(total - 1) > 1e-5


def seen_by_impulse(name, dim, levels):
    """Which sub-pixel's distribution changes when another one does: bool (of, on)."""
    seen = np.zeros((dim, dim), dtype=bool)
    for seed in range(4):  # dead ReLUs hide dependencies: the union over several weights
        model = random_model(name, dim, levels, seed=[9, seed])
        if name.startswith("deep") or "ensemble" in name:
            model.wirings = random_model(name, dim, levels).wirings
        x = np.random.default_rng(seed).integers(0, levels, (1, dim)).astype(np.float64)
        for j in range(dim):
            changed = x.copy()
            changed[0, j] = (x[0, j] + 1) % levels
            members = range(len(model.wirings)) if hasattr(model, "wirings") else [None]
            for member in members:
                options = {} if member is None else {"member": member}
                with no_grad():
                    before, after = (raw(model.logits(v, **options)) for v in (x, changed))
                seen[:, j] |= (before != after).reshape(dim, -1).any(axis=1)
    return seen


@pytest.mark.parametrize("levels", [2, 3])
@pytest.mark.parametrize("name", MODELS)
def test_dependency_sets_are_exactly_the_contexts(name, levels):
    model = random_model(name, 10, levels)
    context = np.array([model.context(i) for i in range(10)])
    np.testing.assert_array_equal(seen_by_impulse(name, 10, levels), context)


@pytest.mark.parametrize("levels", [2, 3])
@pytest.mark.parametrize("name", MODELS)
def test_fast_sampler_draws_the_naive_ones_images(name, levels, xp):
    model = random_model(name, 14, levels, xp=xp)
    fast, naive = (backend.to_numpy(model.sample(23, np.random.default_rng(5), naive=naive))
                   for naive in (False, True))
    np.testing.assert_array_equal(fast, naive)
    assert set(np.unique(fast)) == set(range(levels))


@pytest.mark.parametrize("name", MODELS)
def test_fast_sampler_in_float32(name):
    model = random_model(name, 14, 3, dtype=np.float32)
    fast, naive = (model.sample(23, np.random.default_rng(5), naive=naive)
                   for naive in (False, True))
    assert fast.dtype == np.float32
    np.testing.assert_array_equal(fast, naive)


@pytest.mark.parametrize("name", MODELS)
def test_samples_follow_the_model(name):
    model = random_model(name, 3, 2)
    n = 20000
    images = model.sample(n, np.random.default_rng(2))
    codes = (images @ [4, 2, 1]).astype(int)
    with no_grad():
        p = np.exp(model.log_prob(every_image(3, 2)).data)
    error = np.bincount(codes, minlength=8) / n - p
    assert (np.abs(error) < 5 * np.sqrt(p * (1 - p) / n) + 1e-9).all()


@pytest.mark.parametrize("name", MODELS)
def test_completion_keeps_what_is_observed(name):
    model = random_model(name, 10, 3)
    x = np.random.default_rng(1).integers(0, 3, (6, 10)).astype(np.float64)
    observed = np.arange(10) < 4
    drawn, naive = (model.complete(x, observed, np.random.default_rng(3), naive=naive)
                    for naive in (False, True))
    np.testing.assert_array_equal(drawn[:, observed], x[:, observed])
    np.testing.assert_array_equal(drawn, naive)
    assert model.completes_exactly(observed) == (name in ("belief net", "nade", "made"))
    assert not model.completes_exactly(~observed)


def test_completion_is_the_exact_conditional():
    model = random_model("nade", 4, 2)
    x = np.tile([1.0, 0.0, 0.0, 0.0], (20000, 1))
    drawn = model.complete(x, [True, True, False, False], np.random.default_rng(0))
    worlds = np.array([[1.0, 0.0, a, b] for a in (0, 1) for b in (0, 1)])
    with no_grad():
        p = np.exp(model.log_prob(worlds).data)
    p /= p.sum()
    counts = np.bincount((drawn[:, 2:] @ [2, 1]).astype(int), minlength=4) / len(drawn)
    assert (np.abs(counts - p) < 5 * np.sqrt(p * (1 - p) / len(drawn)) + 1e-9).all()


@pytest.mark.parametrize("mask", [[True] * 3, [True] * 5])
def test_a_mask_of_the_wrong_size_is_refused(mask):
    with pytest.raises(ValueError, match="the mask has"):
        random_model("nade", 4, 2).complete(np.zeros((1, 4)), mask, np.random.default_rng(0))


@pytest.mark.parametrize("levels", [2, 3])
@pytest.mark.parametrize("name", MODELS)
def test_gradient_of_the_objective(name, levels, xp):
    model = random_model(name, 6, levels, xp=xp)
    x = xp.asarray(np.random.default_rng(4).integers(0, levels, (5, 6)).astype(np.float64))
    objective = functional(model, lambda: model.log_prob(x))
    assert check_grads(objective, *[p.data for p in model.parameters()]) < 1e-6


def test_masked_weights_get_no_gradient_and_have_no_influence():
    model = random_model("made", 6, 3)
    x = np.random.default_rng(4).integers(0, 3, (5, 6)).astype(np.float64)
    wiring = model.wirings[0]
    weights = [model.layers[0].weight, model.out.weight, model.direct]
    masks = [wiring.hidden_masks[0], wiring.out_mask, wiring.direct_mask]
    before = model.log_prob(x).data
    for gradient, mask in zip(grad(model.log_prob(x).sum(), weights), masks):
        assert (gradient[mask == 0] == 0).all()
    for weight, mask in zip(weights, masks):
        weight.data[mask == 0] = 1e6
    np.testing.assert_array_equal(model.log_prob(x).data, before)


def test_an_ensemble_averages_likelihoods_not_logits():
    model = random_model("made ensemble", 6, 2)
    images = every_image(6, 2)
    with no_grad():
        members = [np.exp(model.member_log_prob(images, m).data) for m in range(3)]
        np.testing.assert_allclose(np.exp(model.log_prob(images).data), np.mean(members, axis=0),
                                   rtol=1e-12)
        logits = np.mean([model.logits(images, m).data for m in range(3)], axis=0)
        averaged = model.log_prob_of(images, logits)
    assert abs(np.exp(averaged).sum() - 1) > 1e-5  # what averaging logits would have given


def nade_arguments(xp, n=3, dim=5, hidden=7, outputs=2):
    rng = np.random.default_rng(0)
    shapes = [(n, dim), (dim, hidden), (hidden,), (dim, outputs, hidden), (dim, outputs)]
    return [xp.asarray(rng.standard_normal(shape)) for shape in shapes]


def test_nade_op_equals_its_twin(xp, monkeypatch):
    monkeypatch.setattr("scratchgen.models.nade._BLOCK", 2 * 3 * 7)  # blocks of two positions
    tensors = [Tensor(array) for array in nade_arguments(xp)]
    fast, slow = nade_logits(*tensors), nade_logits_twin(*tensors)
    np.testing.assert_allclose(fast.numpy(), slow.numpy(), rtol=1e-12)
    g = xp.asarray(np.random.default_rng(1).standard_normal(fast.shape))
    for a, b in zip(grad(fast, tensors, g), grad(slow, tensors, g)):
        np.testing.assert_allclose(backend.to_numpy(a), backend.to_numpy(b), rtol=1e-10)


def test_nade_op_gradients(xp):
    assert check_grads(nade_logits, *nade_arguments(xp), order=2) < 1e-6


def test_training_starts_from_independent_pixels():
    config = {"dataset": "digits", "binarize": None, "levels": 2, "model": "belief-net",
              "seed": 0, "backend": "numpy", "dtype": "float64", "masks": 1,
              "order": "natural"}
    dataset = catalog.load_data(config)
    x = dataset.encode(dataset.test.images, None, np.float64)
    model, _, _ = catalog.build(config, dataset)
    found = -raw(model.log_prob(x)).mean()
    assert found == pytest.approx(independent_pixels(dataset, "test", seed=0).nats, rel=1e-6)
    for name, hidden, bias in [("nade", 5, "out_bias"), ("made", [5], "out.bias")]:
        other, _, _ = catalog.build(config | {"model": name, "hidden": hidden}, dataset)
        np.testing.assert_array_equal(other.state_dict()[bias].reshape(-1),
                                      model.state_dict()["bias"])


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match="this model knows 9"):
        random_model("nade", 9, 2).log_prob(np.zeros((1, 8)))


@pytest.mark.parametrize("levels, value, complaint", [(3, 3.0, "outside"), (2, 2.0, "0 or 1"),
                                                      (2, 0.5, "0 or 1"), (3, -1.0, "outside")])
def test_levels_outside_the_models_are_refused(levels, value, complaint):
    with pytest.raises(ValueError, match=complaint):
        random_model("nade", 4, levels).log_prob(np.full((1, 4), value))
