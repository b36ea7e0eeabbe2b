"""Row LSTM and Diagonal BiLSTM layers: fused against per-pixel twins, gradients, colours."""

import numpy as np
import pytest

from scratchgen import backend
from scratchgen.check import check_grads
from scratchgen.gradcheck import functional
from scratchgen.nn.pixel_recurrent import DiagonalBiLSTM, RowLSTM, diagonal_bilstm, row_lstm
from scratchgen.tensor import Tensor, grad

CHANNELS, BATCH, HIDDEN = 3, 5, 2
OPS = {"row": row_lstm, "diagonal": diagonal_bilstm}
LAYERS = {"row": RowLSTM, "diagonal": DiagonalBiLSTM}
WEIGHTS = {"row": [(2, CHANNELS, 4 * HIDDEN), (3, HIDDEN, 4 * HIDDEN), (4 * HIDDEN,)],
           "diagonal": [(2, CHANNELS, 4 * HIDDEN), (2, 2, HIDDEN, 4 * HIDDEN), (2, 4 * HIDDEN)]}
VARIANTS = pytest.mark.parametrize("variant", OPS)


def arrays(variant, rng, height, width, xp=np):
    shapes = [(CHANNELS, height, width, BATCH), *WEIGHTS[variant]]
    return [xp.asarray(rng.standard_normal(shape)) for shape in shapes]


@VARIANTS
@pytest.mark.parametrize("height, width", [(3, 4), (4, 3), (1, 3), (3, 1), (1, 1)])
def test_fused_equals_twin(xp, rng, variant, height, width):
    values = arrays(variant, rng, height, width, xp)
    g = xp.asarray(rng.standard_normal((HIDDEN, height, width, BATCH)))
    results = []
    for function in (OPS[variant], OPS[variant].twin):
        tensors = [Tensor(value) for value in values]
        out = function(*tensors)
        results.append([out.data, *grad(out, tensors, g)])
        for a, b in zip(results[-1][1:], grad(out, tensors, g)):  # the graph survives
            assert np.array_equal(backend.to_numpy(a), backend.to_numpy(b))
    for a, b in zip(*results):
        np.testing.assert_allclose(backend.to_numpy(a), backend.to_numpy(b), rtol=1e-11,
                                   atol=1e-13)


@VARIANTS
def test_gradients_to_the_second_order(xp, rng, variant):
    check_grads(OPS[variant], *arrays(variant, rng, 2, 3, xp), order=2, repeats=1)


@VARIANTS
def test_gradients_of_the_layer_with_colours(xp, rng, variant):
    layer = LAYERS[variant](3, 3, rng, colours=3).to(xp, np.float64)
    values = [xp.asarray(rng.standard_normal(p.shape)) for p in layer.parameters()]
    check_grads(functional(layer, layer), *values, xp.asarray(rng.standard_normal((3, 2, 3, 2))),
                repeats=1)


@VARIANTS
def test_what_is_under_the_mask_gets_no_gradient_and_has_no_influence(rng, variant):
    layer = LAYERS[variant](6, 3, rng, colours=3).to(dtype=np.float64)
    x = rng.standard_normal((6, 4, 3, 2))
    before = layer(x).data
    g = grad(layer(x).sum(), layer.weight_is)
    masked = np.broadcast_to(layer.mask, g.shape) == 0
    assert (g[masked] == 0).all() and (g[~masked] != 0).all()
    # Two of six inputs belong to each colour, one of three features in each of the four gates.
    centre = masked.reshape(-1, 6, 4, 3)[-1]
    assert (centre == (np.arange(6)[:, None, None] // 2 > np.arange(3))).all()
    layer.weight_is.data[masked] = 9
    np.testing.assert_array_equal(layer(x).data, before)


def test_a_row_lstm_sees_three_columns_of_the_row_above(rng):
    # With the identity for states and one column at a time, a state moves as its weight says.
    values = arrays("row", rng, 2, 5)
    x = Tensor(values[0])
    for kind, dx in enumerate((-1, 0, 1)):
        weight_ss = np.zeros_like(values[2])
        weight_ss[kind] = values[2][kind]
        g = np.zeros((HIDDEN, 2, 5, BATCH))
        g[:, 1, 2] = 1
        values[1][0] = 0  # no input from the left
        seen = grad(row_lstm(x, values[1], weight_ss, values[3]), x, g)
        # The cell state comes from straight above, whatever the states' weights are.
        assert np.flatnonzero(seen[0, 0, :, 0]).tolist() == sorted({2, 2 + dx})


@VARIANTS
def test_single_precision_stays_single(rng, variant):
    layer = LAYERS[variant](4, 3, rng)
    x = Tensor(rng.standard_normal((4, 3, 3, 2), dtype=np.float32))
    h = layer(x)
    for array in [h, *grad(h.sum(), [x, *layer.parameters()])]:
        assert array.dtype == np.float32


@VARIANTS
def test_the_forget_gate_starts_open(rng, variant):
    bias = LAYERS[variant](4, 3, rng).bias.data.reshape(-1, 4, 3)
    assert (bias == np.array([0, 1, 0, 0])[:, None]).all()


@VARIANTS
def test_bad_shapes_are_refused_in_one_line(rng, variant):
    good = arrays(variant, rng, 2, 3)
    for position, name in [(1, "weight_is"), (2, "weight_ss"), (3, "bias")]:
        bad = list(good)
        bad[position] = bad[position][..., :-1]
        with pytest.raises(ValueError, match=f"{name} must be|weight_is must be") as caught:
            OPS[variant](*bad)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="at least one"):
        OPS[variant](good[0][..., :0], *good[1:])
    with pytest.raises(ValueError, match="2 feature maps cannot be split into 3 colours"):
        LAYERS[variant](6, 2, rng, colours=3)
