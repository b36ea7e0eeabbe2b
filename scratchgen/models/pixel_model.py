"""Floor 4: what PixelCNN and PixelRNN share. Read autoregressive.py and nn/masked.py before.

An image model is a stack of layers that keep to raster order, colours innermost, and two 1x1
layers between the stack's maps and the logits:

    stack (N, H, W, colours) -> (N, H, W, maps);  twice [relu, 1x1 -> head];  relu, 1x1 -> logits.
"""

from scratchgen.models.autoregressive import AutoregressiveModel
from scratchgen.models.pixelcnn_sampling import draw_pixels
from scratchgen.nn.masked import MaskedConv2d, Section, chain


class PixelModel(AutoregressiveModel):
    """Images of shape (H, W) with 1 or 3 colours; x is (N, D), D = H W colours.

    A subclass gives its stack (with `maps`, `sampler`), and says in `context` what it sees.
    """

    def __init__(self, shape, rng, stack, levels, channels, head):
        super().__init__(shape[0] * shape[1] * channels, levels)
        self.shape = tuple(shape)
        self.channels = channels
        self.stack = stack
        sizes = [stack.maps, head, head, channels * self.outputs]
        self.head = [MaskedConv2d(a, b, 1, rng, colours=channels)
                     for a, b in zip(sizes[:-1], sizes[1:])]

    def logits(self, x):
        maps = self.stack(self.scaled(x).reshape(-1, *self.shape, self.channels))
        maps = chain(maps, [Section(self.head)])
        per_pixel = () if self.levels == 2 else (self.levels,)
        return maps.reshape(-1, self.dim, *per_pixel)

    def fill(self, x, u, missing, progress=None):
        draw_pixels(self, x, u, missing, progress)


def check_sizes(shape, channels, layers, width, head):
    """ValueError unless the shape is (H, W) and there is at least one of everything."""
    if len(shape) != 2 or min(shape) < 1 or min(channels, layers, width, head) < 1:
        raise ValueError(f"shape {shape}, {channels} channels, {layers} layers, width {width} "
                         f"and head {head}: the shape must be (H, W), all at least 1")
