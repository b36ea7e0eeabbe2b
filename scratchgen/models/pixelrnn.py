"""Floor 4: PixelRNN. Read pixel_model.py and nn/pixel_recurrent.py before.

PixelCNN's blocks of convolutions are replaced by two-dimensional LSTMs, which see far instead of
a few pixels for each layer:

    7x7 mask A -> 2h maps;  L times x + f(x), f = [LSTM 2h -> h, 1x1 -> 2h];
    twice [relu, 1x1 -> 32];  relu, 1x1 -> logits.

variant "row" has Row LSTMs, whose context is a triangle of which the pixel is the tip;
"diagonal" has Diagonal BiLSTMs, which see all pixels before but one: the last of the row above,
since the map that comes from the right has its state there before it has seen that pixel.

van den Oord, Kalchbrenner & Kavukcuoglu 2016, "Pixel recurrent neural networks", sections 3.1,
3.2, 3.3 (residual connections) and table 1. Sampling pixel by pixel: pixelrnn_sampling.py.
"""

import numpy as np

from scratchgen import ops
from scratchgen.models.pixel_model import PixelModel, check_sizes
from scratchgen.models.pixelrnn_sampling import DiagonalSampler, RecurrentSampler, RowSampler
from scratchgen.nn.masked import MaskedConv2d
from scratchgen.nn.module import Module
from scratchgen.nn.pixel_recurrent import DiagonalBiLSTM, RowLSTM

VARIANTS = {"row": (RowLSTM, RowSampler), "diagonal": (DiagonalBiLSTM, DiagonalSampler)}


class PixelRNN(PixelModel):
    """Images of shape (H, W) with 1 or 3 colours; x is (N, D), D = H W colours.

    variant: "row" or "diagonal"; levels: 2 .. 256 values of a sub-pixel; layers: L; width: h;
    first_kernel: the first convolution's size, odd and at least 3; head: maps of the two 1x1
    layers before the output.
    """

    def __init__(self, shape, rng, variant="row", levels=2, channels=1, layers=2, width=16,
                 first_kernel=7, head=32):
        check_sizes(shape, channels, layers, width, head)
        if variant not in VARIANTS:
            raise ValueError(f"no PixelRNN is called {variant!r}: choose {' or '.join(VARIANTS)}")
        if first_kernel < 3:
            raise ValueError(f"a first kernel of {first_kernel} sees no neighbour: take 3 or more")
        stack = RecurrentStack(channels, variant, layers, width, first_kernel, rng)
        super().__init__(shape, rng, stack, levels, channels, head)
        self.variant = variant

    def context(self, i):
        """The sub-pixels that sub-pixel i can depend on, bool (D,).

        With r the first kernel's half width: a Row LSTM sees r + L pixels of its own row; of a
        row above it sees as many and one more, on the left, for each row, and on the right r - 1
        and one for each row. A Diagonal BiLSTM sees everything before, but of the last pixel
        in the row above not the last colour, unless the first convolution reaches it.
        """
        height, width = self.shape
        pixel, colour = divmod(i, self.channels)
        row, column = divmod(pixel, width)
        up = row - np.arange(height)[:, None]
        right = np.arange(width) - column
        r = self.stack.half_width
        reach = r + len(self.stack.layers)
        before = (up >= 1) | (up == 0) & (right < 0)
        if self.variant == "row":
            before &= (right >= -reach - up) & (right <= r + up - 1)
        seen = before[:, :, None].repeat(self.channels, axis=2)
        if self.variant == "diagonal" and row and column < width - 1 - r:
            seen[row - 1, width - 1, -1] = False
        seen[row, column, :colour] = True
        return seen.reshape(-1)


class RecurrentStack(Module):
    """(N, H, W, colours) -> (N, H, W, 2h): the first layer and L residual LSTM layers."""

    def __init__(self, colours, variant, layers, width, first_kernel, rng):
        lstm, self.layer_sampler = VARIANTS[variant]
        self.maps = 2 * width
        self.first = MaskedConv2d(colours, 2 * width, first_kernel, rng, "A", colours=colours)
        self.half_width = first_kernel // 2
        self.layers = [RecurrentLayer(lstm, colours, width, rng) for _ in range(layers)]

    def forward(self, x):
        x = ops.transpose(self.first(x), axes=(3, 1, 2, 0))
        for layer in self.layers:
            x = layer(x)
        return ops.transpose(x, axes=(3, 1, 2, 0))

    def sampler(self, n, width):
        return RecurrentSampler(self, n, width)


class RecurrentLayer(Module):
    """x + up(lstm(x)), where the LSTM itself adds nothing: (2h, H, W, N) -> the same."""

    def __init__(self, lstm, colours, width, rng):
        self.lstm = lstm(2 * width, width, rng, colours)
        self.up = MaskedConv2d(width, 2 * width, 1, rng, colours=colours)

    def forward(self, x):
        h = self.lstm(x)
        weight = ops.transpose(self.up.effective()[0])
        up = weight @ h.reshape(h.shape[0], -1) + self.up.bias.reshape(-1, 1)
        return x + up.reshape(x.shape)
