"""The LSTM: equations, fused against twin and PyTorch, padding, state carried on, gradients."""

import math

import numpy as np
import pytest

from scratchgen import backend, ops
from scratchgen.check import check_grads
from scratchgen.gradcheck import functional
from scratchgen.nn.recurrent import LSTM, detached, kept_steps, lstm
from scratchgen.tensor import Tensor, grad, no_grad

STEPS, BATCH, FEATURES, HIDDEN = 5, 3, 2, 4
SHAPES = [(STEPS, BATCH, FEATURES), (BATCH, HIDDEN), (BATCH, HIDDEN), (4 * HIDDEN, FEATURES),
          (4 * HIDDEN, HIDDEN), (4 * HIDDEN,)]
LENGTHS = np.array([5, 2, 3])


def arrays(rng, xp=np):
    return [xp.asarray(rng.standard_normal(shape)) for shape in SHAPES]


def keep_for(x, padded):
    return kept_steps(LENGTHS, x) if padded else None


PADDED = pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])


def test_one_step_by_hand():
    i, f, g, o = [np.array([[a]]) for a in (0.3, -0.2, 0.7, 1.1)]
    c0 = 0.5

    def sigmoid(a):
        return 1 / (1 + math.exp(-a.item()))
    c = sigmoid(f) * c0 + sigmoid(i) * math.tanh(0.7)
    h = sigmoid(o) * math.tanh(c)
    # h0 = 0, x = 1: the gates' arguments are the weights themselves, here half weight half bias.
    weight = np.concatenate([i, f, g, o]) / 2
    out = lstm(np.ones((1, 1, 1)), np.zeros((1, 1)), np.full((1, 1), c0), weight,
               np.ones((4, 1)), weight[:, 0])
    np.testing.assert_allclose(out.reshape(-1), [h, c], rtol=1e-14)


@PADDED
def test_fused_equals_twin(xp, rng, padded):
    values = arrays(rng, xp)
    g = xp.asarray(rng.standard_normal((2, STEPS, BATCH, HIDDEN)))
    results = []
    for function in (lstm, lstm.twin):
        tensors = [Tensor(value) for value in values]
        out = function(*tensors, keep=keep_for(values[0], padded))
        results.append([out.data, *grad(out, tensors, g)])
        again = grad(out, tensors, g)
        for a, b in zip(results[-1][1:], again):  # the graph survives
            assert np.array_equal(backend.to_numpy(a), backend.to_numpy(b))
    for a, b in zip(*results):
        np.testing.assert_allclose(backend.to_numpy(a), backend.to_numpy(b), rtol=1e-11,
                                   atol=1e-13)


@PADDED
def test_gradients_to_the_second_order(xp, rng, padded):
    shapes = [(3, 2, 2), (2, 3), (2, 3), (12, 2), (12, 3), (12,)]
    values = [xp.asarray(rng.standard_normal(shape)) for shape in shapes]
    keep = kept_steps([3, 1], values[0]) if padded else None
    check_grads(lambda *tensors: lstm(*tensors, keep=keep), *values, order=2, repeats=1)


def test_gradients_of_the_layer(xp, rng):
    layer = LSTM(2, 3, rng, layers=2, bidirectional=True, learned_initial_state=True)
    layer.to(xp, np.float64)
    values = [xp.asarray(rng.standard_normal(p.shape)) for p in layer.parameters()]
    assert len(values) == 2 * 2 * 5

    def function(x):
        h, (last_h, last_c) = layer(x, lengths=LENGTHS)
        return h, last_h, last_c
    check_grads(functional(layer, function), *values, xp.asarray(rng.standard_normal(SHAPES[0])),
                repeats=1)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_it_is_pytorchs(rng, bidirectional):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: not compared with it")
    mine = LSTM(FEATURES, HIDDEN, rng, layers=2, bidirectional=bidirectional)
    theirs = torch.nn.LSTM(FEATURES, HIDDEN, 2, bidirectional=bidirectional)
    for k, cell in enumerate(mine.cells):
        suffix = f"_l{k // mine.directions}" + "_reverse" * (k % mine.directions)
        for name, value in [("weight_ih", cell.weight_ih), ("weight_hh", cell.weight_hh),
                            ("bias_ih", cell.bias), ("bias_hh", cell.bias * 0.0)]:
            getattr(theirs, name + suffix).data = torch.tensor(value.data)
    x = rng.standard_normal(SHAPES[0], dtype=np.float32)
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.tensor(x), torch.tensor(LENGTHS),
                                                     enforce_sorted=False)
    expected, state = theirs(packed)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(expected)
    h, mine_state = mine(x, lengths=LENGTHS)
    real = kept_steps(LENGTHS, x)
    np.testing.assert_allclose(h.data * real, expected.detach().numpy(), atol=1e-6)
    for a, b in zip(mine_state, state):
        np.testing.assert_allclose(a.data, b.detach().numpy(), atol=1e-6)
    (expected.sum() + state[1].sum()).backward()
    gradients = grad((h * real).sum() + mine_state[1].sum(), mine.parameters())
    named = [name for name, _ in theirs.named_parameters() if "bias_hh" not in name]
    for g, name in zip(gradients, named, strict=True):
        np.testing.assert_allclose(g, getattr(theirs, name).grad.numpy(), atol=2e-6)


# ------------------------------------------------------------------------ padding and state


@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_does_not_change_a_result(xp, rng, bidirectional):
    layer = LSTM(FEATURES, HIDDEN, rng, layers=2, bidirectional=bidirectional)
    layer.to(xp, np.float64)
    x = rng.standard_normal(SHAPES[0])
    filled = np.where(kept_steps(LENGTHS, x), x, 1e3 * rng.standard_normal(x.shape))
    with no_grad():
        for example, length in enumerate(LENGTHS):
            alone, state = layer(xp.asarray(x[:length, example:example + 1]))
            h, padded_state = layer(xp.asarray(filled), lengths=LENGTHS)
            np.testing.assert_allclose(h.numpy()[:length, example], alone.numpy()[:, 0],
                                       rtol=1e-12)
            for a, b in zip(padded_state, state):
                np.testing.assert_allclose(a.numpy()[:, example], b.numpy()[:, 0], rtol=1e-12)


def test_padding_receives_no_gradient(rng):
    layer = LSTM(FEATURES, HIDDEN, rng, layers=2, bidirectional=True)
    x = Tensor(rng.standard_normal(SHAPES[0], dtype=np.float32))
    h, _ = layer(x, lengths=LENGTHS)
    real = kept_steps(LENGTHS, x.data)[:, :, 0]
    g = grad((h * real[:, :, None]).sum(), x)
    assert (g[~real] == 0).all()
    assert (g[real] != 0).all()


def test_carried_state_continues_and_detached_cuts_the_gradient(rng):
    layer = LSTM(FEATURES, HIDDEN, rng, layers=2).to(dtype=np.float64)
    x = Tensor(rng.standard_normal(SHAPES[0]))
    whole, final = layer(x)
    first, state = layer(x[:2])
    second, last = layer(x[2:], state)
    np.testing.assert_allclose(ops.concatenate(first, second).data, whole.data, rtol=1e-13)
    for a, b in zip(last, final):
        np.testing.assert_allclose(a.data, b.data, rtol=1e-13)
    np.testing.assert_allclose(grad(second.sum(), x), grad(whole[2:].sum(), x), rtol=1e-11)
    truncated, _ = layer(x[2:], detached(state))
    np.testing.assert_array_equal(truncated.data, second.data)
    g = grad(truncated.sum(), x)
    assert (g[:2] == 0).all() and (g[2:] != 0).all()


def test_learned_initial_state_is_where_every_example_starts(rng):
    layer = LSTM(FEATURES, HIDDEN, rng, learned_initial_state=True)
    cell, = layer.cells
    for state in (cell.h0, cell.c0):
        assert (state.data == 0).all()
        state.data += rng.standard_normal(HIDDEN, dtype=np.float32)
    x = rng.standard_normal(SHAPES[0], dtype=np.float32)
    given = [np.tile(state.data, (1, BATCH, 1)) for state in (cell.h0, cell.c0)]
    np.testing.assert_array_equal(layer(x)[0].data, layer(x, given)[0].data)
    assert all((g != 0).all() for g in grad(layer(x)[0].sum(), [cell.h0, cell.c0]))


def test_the_forget_gate_starts_open(rng):
    bias = LSTM(FEATURES, HIDDEN, rng).cells[0].bias.data
    assert bias.tolist() == [0] * HIDDEN + [1] * HIDDEN + [0] * 2 * HIDDEN
    assert (LSTM(FEATURES, HIDDEN, rng, forget_bias=0.0).cells[0].bias.data == 0).all()


def test_single_precision_stays_single(rng):
    layer = LSTM(FEATURES, HIDDEN, rng, bidirectional=True, learned_initial_state=True)
    x = Tensor(rng.standard_normal(SHAPES[0], dtype=np.float32))
    h, state = layer(x, lengths=LENGTHS)
    for array in [h, *state, *grad(h.sum(), [x, *layer.parameters()])]:
        assert array.dtype == np.float32


def test_extreme_numbers_stay_finite(rng):
    x = np.array([[[1e4]], [[-1e4]]], dtype=np.float32)
    layer = LSTM(1, 2, rng)
    layer.cells[0].weight_ih.data[...] = 100
    h, _ = layer(x)
    assert np.isfinite(h.data).all()
    assert all(np.isfinite(g).all() for g in grad(h.sum(), layer.parameters()))


# ----------------------------------------------------------------------------------- errors


def call_lstm(position, shape):
    shapes = SHAPES[:position] + [shape] + SHAPES[position + 1:]
    return lambda rng: lstm(*[np.zeros(s) for s in shapes])


def with_lengths(lengths):
    return lambda rng: LSTM(FEATURES, HIDDEN, rng)(np.zeros(SHAPES[0], "f"), lengths=lengths)


@pytest.mark.parametrize("call, words", [
    (call_lstm(2, (BATCH, 9)), r"c0 must be \[3, 4\]"),
    (call_lstm(3, (16, 9)), r"weight_ih must be \[16, 2\]"),
    (call_lstm(4, (12, 4)), r"weight_hh must be \[16, 4\]"),
    (call_lstm(5, (4,)), r"bias must be \[16\]"),
    (lambda rng: LSTM(FEATURES, HIDDEN, rng)(np.zeros((5, 0, 2), "f")), "at least one step"),
    (lambda rng: LSTM(FEATURES, HIDDEN, rng)(np.zeros((0, 3, 2), "f")), "at least one step"),
    (with_lengths([5, 2, 6]), r"lengths 2..6 for sequences of 5 steps: each must be 1..5"),
    (with_lengths([5, 0, 3]), r"lengths 0..5"),
    (with_lengths([5, 2]), "lengths must be 3 integers"),
    (with_lengths([5.0, 2.0, 3.0]), "lengths must be 3 integers")])
def test_bad_input_is_refused_in_one_line(rng, call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call(rng)
    assert "\n" not in str(caught.value)
