"""Floor 3: masked convolutions, which see only what comes before. Read conv.py, taps.py before.

In raster order, colours (red, green, blue) innermost, a masked convolution sees only the pixels
above, and in its own row those to the left. Masks of a 3x3 kernel (1: seen, .: not seen, c: the
centre, where the colour decides):

    both       vertical   horizontal
    1 1 1      1 1 1      . . .
    1 c .      1 1 1      1 c .
    . . .      . . .      . . .

At the centre a feature of colour d sees inputs of the colours before d under mask A (the first
layer, whose input is the image itself), and of d too under mask B (all others): feature maps are
split into groups, R before G before B. With one colour A's centre is empty and B's is full.
van den Oord et al. 2016a, "Pixel recurrent neural networks", section 3.4; the two stacks: 2016b,
"Conditional image generation with PixelCNN decoders", section 2.2.

What is not seen does not exist: a weight is (T, C, O), one matrix for each of the T taps that
are left, so a 3x3 mask B costs five products and a 7x7 mask A 24. Images are (N, H, W, C).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scratchgen import ops
from scratchgen.backend import module_of
from scratchgen.conv import conv2d
from scratchgen.nn import init
from scratchgen.nn.module import Module
from scratchgen.nn.taps import Convolution, for_each, pieces, relu
from scratchgen.operators import put
from scratchgen.tensor import Tensor, fused

STACKS = ("both", "vertical", "horizontal")


def taps(kernel, mask, stack="both", colours=1):
    """The places (row, column) that a mask leaves of a kernel, from the centre, in raster order."""
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"a masked kernel has a centre: its size must be odd, not {kernel}")
    if mask not in ("A", "B") or stack not in STACKS:
        raise ValueError(f"mask {mask!r}, stack {stack!r}: choose A or B, {', '.join(STACKS)}")
    r = kernel // 2
    rows = range(0, 1) if stack == "horizontal" else range(-r, 1)
    unseen = 0 if mask == "A" and colours == 1 else 1
    seen = tuple((i, j) for i in rows for j in range(-r, r + 1)
                 if i < 0 or j < unseen or stack == "vertical")
    if not seen:
        raise ValueError(f"mask A of a kernel of {kernel} sees nothing: take 3 or more")
    return seen


def colour_mask(channels_in, channels_out, mask, colours, parts=1):
    """1 where at the centre an output may see an input: (in, out).

    Channels are split into consecutive groups, one for each colour; the outputs first into
    `parts`, each of which is then split (the two halves of a gate).
    """
    fewest = min(channels_in, channels_out // parts)
    if fewest < colours:
        raise ValueError(f"{fewest} feature maps cannot be split into {colours} colours: take "
                         f"{colours} or more")
    colour_in = np.arange(channels_in) * colours // channels_in
    part = channels_out // parts
    colour_out = np.tile(np.arange(part) * colours // part, parts)
    seen = np.less if mask == "A" else np.less_equal
    return seen(colour_in[:, None], colour_out).astype(np.float32)


class MaskedConv2d(Module):
    """(N, H, W, in) -> (N, H, W, out); weight (T, in, out), bias (out), from zero.

    With several colours `mask` has the centre's colour mask; a weight under it acts as zero and
    receives no gradient.
    """

    def __init__(self, in_channels, out_channels, kernel, rng, mask="B", stack="both",
                 colours=1, parts=1):
        self.taps = taps(kernel, mask, stack, colours)
        shape = (len(self.taps), in_channels, out_channels)
        self.weight = Tensor(init.uniform(shape, rng, (shape[0] * shape[1]) ** -0.5))
        self.bias = Tensor(np.zeros(out_channels, dtype=np.float32))
        if colours > 1 and stack != "vertical":
            self.constants = ("mask",)
            self.mask = np.ones(shape, dtype=np.float32)
            self.mask[-1] = colour_mask(in_channels, out_channels, mask, colours, parts)

    def effective(self):
        """The weight as it acts."""
        return self.weight * self.mask if self.constants else self.weight

    def forward(self, x):
        return chain(x, [Section([self], relu=False)])


class Section(NamedTuple):
    """Convolutions one after the other, a relu before each; `residual`: plus what came in."""

    convs: Sequence  # MaskedConv2d layers for `chain`, only their taps for `masked_convs`
    relu: bool = True
    residual: bool = False


def chain(x, sections):
    """x (N, H, W, C) through all sections in turn."""
    weights = []
    for section in sections:
        for layer in section.convs:
            weights += [layer.effective(), layer.bias]
    plan = tuple(section._replace(convs=tuple(layer.taps for layer in section.convs))
                 for section in sections)
    return masked_convs(x, *weights, plan=plan)


def gate(x):
    """tanh of the first half of the maps times sigmoid of the second: (..., 2h) -> (..., h)."""
    half = x.shape[-1] // 2
    return ops.tanh(x[..., :half]) * ops.sigmoid(x[..., half:])


# --------------------------------------------------------------------------- the fused op


def masked_convs_twin(x, *weights, plan):
    """Ordinary convolutions, their kernels zero wherever there is no tap."""
    weights = iter(weights)
    out = ops.transpose(x, axes=(0, 3, 1, 2))
    for section in plan:
        came_in = out
        for taps in section.convs:
            if section.relu:
                out = ops.relu(out)
            r = max(max(abs(i), abs(j)) for i, j in taps)
            out = conv2d(out, _full_kernel(next(weights), taps, r), padding=r)
            out = out + next(weights).reshape((-1, 1, 1))
        if section.residual:
            out = out + came_in
    return ops.transpose(out, axes=(0, 2, 3, 1))


def _full_kernel(weight, taps, r):
    """(T, C, O) -> (O, C, k, k), zero under the mask."""
    side = 2 * r + 1
    places = np.array([(i + r) * side + j + r for i, j in taps])
    kernel = put(weight, shape=(side * side,) + weight.shape[1:], index=places)
    kernel = kernel.reshape((side, side) + weight.shape[1:])
    return ops.transpose(kernel, axes=(3, 2, 0, 1))


@fused(twin=masked_convs_twin)
def masked_convs(x, *weights, plan):
    """The sections of `plan` one after the other, on x (N, H, W, C).

    weights: the weight (T, C, O) and the bias (O) of each convolution in turn. A piece of the
    batch goes through all of them while it is in the cache.
    """
    sections = _prepared(x, weights, plan)
    out = module_of(x).empty(x.shape[:3] + weights[-1].shape, x.dtype)

    def forward(piece):
        """For each section the inputs of its convolutions; the first one before its relu."""
        y = x[piece]
        saved = []
        for section in sections:
            inputs = [y]
            y = relu(y) if section.relu else y
            for conv in section.convs[:-1]:
                y = conv.forward(y, relu=section.relu)
                inputs.append(y)
            y = section.convs[-1].forward(y)
            if section.residual:
                y += inputs[0]
            saved.append(inputs)
        out[piece] = y
        return saved

    cut = pieces(x, [conv for section in sections for conv in section.convs])
    return out, (x, sections, cut, for_each(forward, cut))


@masked_convs.joint_rule
def _masked_convs_rule(g, out, saved, needed):
    x, sections, cut, saved = saved
    g_x = module_of(x).empty(x.shape, x.dtype) if needed[0] else None

    def backward(piece, saved):
        """The gradients of all weights and biases in turn; that of x goes to `g_x`."""
        g_y = g[piece]
        gradients = []
        for section, inputs in zip(reversed(sections), reversed(saved)):
            g_out = g_y
            for conv, a in zip(reversed(section.convs), reversed(inputs)):
                if section.relu and a is inputs[0]:
                    a = relu(a)
                if conv is sections[0].convs[0] and not needed[0]:
                    return conv.parameter_gradients(a, g_y) + gradients
                g_y, *own = conv.backward(a, g_y)
                gradients = own + gradients
                if section.relu:
                    g_y *= a > 0  # positive after the relu: positive before
            if section.residual:
                g_y += g_out
        g_x[piece] = g_y
        return gradients

    total, *others = for_each(backward, cut, saved)
    for gradients in others:
        for sum_so_far, gradient in zip(total, gradients):
            sum_so_far += gradient
    return g_x, *total


def _prepared(x, weights, plan):
    """The sections with Convolutions in place of taps; ValueError if shapes do not fit."""
    if len(x.shape) != 4:
        raise ValueError("images (N, H, W, C) expected")
    channels = x.shape[3]
    pairs = iter(zip(weights[::2], weights[1::2]))
    sections = []
    for section in plan:
        convs = []
        for taps in section.convs:
            weight, bias = next(pairs)
            if weight.shape != (len(taps), channels) + bias.shape:
                raise ValueError(f"a weight of {weight.shape} for {len(taps)} taps, {channels} "
                                 f"input channels and a bias of {bias.shape}")
            convs.append(Convolution(weight, bias, taps, x.shape[2]))
            channels = bias.shape[0]
        sections.append(section._replace(convs=convs))
    return sections
