"""Floor 4: PixelCNN. Read pixel_model.py and nn/masked.py before.

Each sub-pixel's distribution comes from a stack of masked convolutions over the image, which
see only what comes before it in raster order, colours innermost:

    7x7 mask A -> 2h maps;  L times x + f(x), f = [relu, 1x1 -> h, relu, 3x3 mask B -> h, relu,
    1x1 -> 2h];  twice [relu, 1x1 -> 32];  relu, 1x1 -> logits.

Training sees all pixels of an image at once. A stack of 3x3 masks never sees some of what lies
above to the right, its blind spot; `gated=True` has two stacks instead, one for the rows above
and one for the pixel's own row, and no blind spot.

van den Oord, Kalchbrenner & Kavukcuoglu 2016, "Pixel recurrent neural networks", sections 3.3 to
3.5 and table 1; gated: van den Oord et al. 2016, "Conditional image generation with PixelCNN
decoders", figure 2. How both sample pixel by pixel: pixelcnn_sampling.py.
"""

import numpy as np

from scratchgen import ops
from scratchgen.models.pixel_model import PixelModel, check_sizes
from scratchgen.models.pixelcnn_sampling import GatedSampler, ResidualSampler
from scratchgen.nn.masked import MaskedConv2d, Section, chain, gate
from scratchgen.nn.module import Module


class PixelCNN(PixelModel):
    """Images of shape (H, W) with 1 or 3 colours; x is (N, D), D = H W colours.

    levels: 2 .. 256 values of a sub-pixel; layers: L, the 3-wide layers after the first one;
    width: h (the gated variant has h maps in each stack); first_kernel: its size, odd;
    head: maps of the two 1x1 layers before the output.
    """

    def __init__(self, shape, rng, levels=2, channels=1, layers=7, width=32, first_kernel=7,
                 gated=False, head=32):
        check_sizes(shape, channels, layers, width, head)
        stack = GatedStacks if gated else ResidualStack
        super().__init__(shape, rng, stack(channels, layers, width, first_kernel, rng), levels,
                         channels, head)

    def context(self, i):
        """The sub-pixels that sub-pixel i can depend on, bool (D,): what `stack.sees`."""
        height, width = self.shape
        pixel, colour = divmod(i, self.channels)
        row, column = divmod(pixel, width)
        up = row - np.arange(height)[:, None]
        right = np.arange(width) - column
        seen = self.stack.sees(up, right)[:, :, None].repeat(self.channels, axis=2)
        seen[row, column, :colour] = True
        return seen.reshape(-1)


# ------------------------------------------------------------------------ residual PixelCNN


class ResidualStack(Module):
    """(N, H, W, colours) -> (N, H, W, 2h): the first layer and L residual blocks."""

    def __init__(self, colours, layers, width, first_kernel, rng):
        self.maps = 2 * width
        self.first = MaskedConv2d(colours, 2 * width, first_kernel, rng, "A", colours=colours)
        self.blocks = [ResidualBlock(colours, width, rng) for _ in range(layers)]

    def forward(self, x):
        blocks = [Section([block.reduce, block.middle, block.expand], residual=True)
                  for block in self.blocks]
        return chain(x, [Section([self.first], relu=False), *blocks])

    def sees(self, up, right):
        """Whether a pixel can depend on the one `up` rows above and `right` columns to the right.

        With r the first kernel's half width: r + L to the left and up; to the right one column
        for each row above, beginning at r. What is further right above is the blind spot.
        """
        r, reach = _reach(self.first, self.blocks)
        beside = (up == 0) & (right < 0)
        above = (up >= 1) & (up <= reach) & (right <= np.minimum(r + up - 1, reach))
        return (beside | above) & (right >= -reach)

    def sampler(self, n, width):
        return ResidualSampler(self, n, width)


class ResidualBlock(Module):
    """The layers of x + f(x): 2h maps, h inside."""

    def __init__(self, colours, width, rng):
        self.reduce = MaskedConv2d(2 * width, width, 1, rng, colours=colours)
        self.middle = MaskedConv2d(width, width, 3, rng, colours=colours)
        self.expand = MaskedConv2d(width, 2 * width, 1, rng, colours=colours)


# --------------------------------------------------------------------------- gated PixelCNN


class GatedStacks(Module):
    """(N, H, W, colours) -> (N, H, W, h): two stacks of gated layers; the horizontal one's maps.

    The vertical stack sees its own row and those above, as wide to the right as to the left.
    Moved down by one row it tells the horizontal stack everything about the rows above.
    """

    def __init__(self, colours, layers, width, first_kernel, rng):
        self.maps = width
        self.layers = [GatedLayer(colours, width, first_kernel, rng, first=True)]
        self.layers += [GatedLayer(colours, width, 3, rng) for _ in range(layers)]

    def forward(self, x):
        vertical = horizontal = x
        for layer in self.layers:
            vertical, horizontal = layer(vertical, horizontal)
        return horizontal

    def sees(self, up, right):
        """As in ResidualStack: a full rectangle, the whole context once r + L >= H, W - 1."""
        _, reach = _reach(self.layers[0].vertical, self.layers[1:])
        beside = (up == 0) & (right < 0)
        above = (up >= 1) & (up <= reach + 1) & (right <= reach)
        return (beside | above) & (right >= -reach)

    def sampler(self, n, width):
        return GatedSampler(self, n, width)


class GatedLayer(Module):
    """v' = gate(V v),  h' = gate(H h + S shift(V v)) through a 1x1, plus h after the first layer.

    gate(a, b) = tanh(a) sigmoid(b) on the two halves of the maps.
    """

    def __init__(self, colours, width, kernel, rng, first=False):
        inputs = colours if first else width
        self.first = first
        self.vertical = MaskedConv2d(inputs, 2 * width, kernel, rng, stack="vertical")
        self.link = MaskedConv2d(2 * width, 2 * width, 1, rng)
        self.horizontal = MaskedConv2d(inputs, 2 * width, kernel, rng, "A" if first else "B",
                                       "horizontal", colours, parts=2)
        self.out = MaskedConv2d(width, width, 1, rng, colours=colours)

    def forward(self, vertical, horizontal):
        v = self.vertical(vertical)
        h = self.out(gate(self.horizontal(horizontal) + self.link(one_row_down(v))))
        return gate(v), h if self.first else h + horizontal


def one_row_down(x):
    """Row i of the result is row i - 1 of x (N, H, W, C), and zeros on top."""
    return ops.pad(x, width=((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]


def _reach(first, others):
    """(r, r + L): the first layer's half width, and that of the whole stack."""
    r = max(-column for _, column in first.taps)
    return r, r + len(others)
