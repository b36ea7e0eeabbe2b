"""Floor 4: what all chain-rule models share. Read distributions.py and game.py before.

    p(x) = prod_i p(x_i | x_1 .. x_{i-1}),

exact, by one pass of a network whose i-th output sees only what comes before i in the order.
Each sub-pixel is a Bernoulli (2 levels) or a Categorical (K levels) on logits. Drawing an image
takes one uniform number per sub-pixel, used in the model's order: so the naive sampler (the
whole network for every sub-pixel) and a model's fast one draw the same images from the same
numbers.
"""

import numpy as np

from scratchgen import backend, ops
from scratchgen.distributions import Bernoulli, categorical_log_prob
from scratchgen.models.game import LikelihoodModel
from scratchgen.tensor import no_grad, raw


class AutoregressiveModel(LikelihoodModel):
    """Base class. x is (N, D): numbers 0 .. levels-1 as floats, sub-pixels in raster order.

    A subclass has `logits(x)`: (N, D) for 2 levels, (N, D, levels) for more, where the i-th
    depends only on sub-pixels before i in `order`; `context(i)`, which says on which; and, to
    be fast, its own `fill`.
    """

    figure_name = "exact"

    def __init__(self, dim, levels=2):
        if levels < 2:
            raise ValueError(f"levels must be at least 2, not {levels}")
        self.dim = dim
        self.levels = levels
        self.outputs = 1 if levels == 2 else levels  # numbers that give a sub-pixel's logits
        self.order = np.arange(dim)  # a position in the order -> the sub-pixel there

    def first_bias(self, log_odds):
        """Biases (D, outputs) to start training from: zeros, or the log-odds of 2 levels (D,).

        Many pixels are nearly always 0: their biases would take long to get there by steps of a
        gradient, and the weights would do the work meanwhile.
        """
        bias = np.zeros((self.dim, self.outputs), dtype=np.float32)
        if log_odds is not None:
            bias[:, 0] = log_odds
        return bias

    def scaled(self, x):
        """What a network is fed: levels brought to [0, 1]."""
        return x if self.levels == 2 else x * (1 / (self.levels - 1))

    def log_prob(self, x):
        """log p(x) in nats, (N, D) -> (N,), a Tensor."""
        if x.shape[-1] != self.dim:
            raise ValueError(f"images of {x.shape[-1]} numbers, this model knows {self.dim}")
        if self.levels == 2 and not ((x == 0) | (x == 1)).all().item():
            raise ValueError("pixels must be 0 or 1")  # more levels are checked by their op
        return self.log_prob_of(x, self.logits(x))

    def log_prob_of(self, x, logits):
        """log p of x (N, D) given the logits of every sub-pixel, (N,)."""
        if self.levels == 2:
            return Bernoulli(logits).log_prob(x)
        return categorical_log_prob(logits, x=x)

    def objective(self, x, rng=None):
        """What training raises: log p(x) of each example."""
        return self.log_prob(x)

    def context(self, i):
        """The sub-pixels that the distribution of sub-pixel i can depend on: bool (D,)."""
        allowed = np.zeros(self.dim, dtype=bool)
        position = int(np.nonzero(self.order == i)[0][0])
        allowed[self.order[:position]] = True
        return allowed

    def draw(self, logits, u):
        """Levels by the inverse distribution function: logits (N,) or (N, K), u (N,) -> (N,)."""
        if self.levels == 2:
            return (u < ops.sigmoid(logits)).astype(u.dtype)
        cumulated = ops.cumsum(ops.exp(ops.log_softmax(logits)), axis=-1)
        # The last sum may fall short of 1 by rounding: left out, so no level beyond K-1.
        return (cumulated[:, :-1] <= u[:, None]).sum(axis=-1).astype(u.dtype)

    def sample(self, n, rng, naive=False, progress=None):
        """n images, (n, D), a plain array."""
        like = raw(self.parameters()[0])
        x = backend.module_of(like).zeros((n, self.dim), like.dtype)
        return self._run(x, None, rng, naive, progress)

    def complete(self, x, observed, rng, naive=False, progress=None):
        """Keep the sub-pixels of x (N, D) where `observed` (bool, D) holds, draw the others.

        Exact conditional samples if the observed ones come first in the order
        (`completes_exactly`); otherwise each draw ignores what is observed after it.
        """
        observed = np.asarray(observed, dtype=bool).reshape(-1)
        if observed.shape != (self.dim,):
            raise ValueError(f"the mask has {observed.size} numbers, the images {self.dim}")
        return self._run(x * backend.module_of(x).asarray(observed), observed, rng, naive,
                         progress)

    def completes_exactly(self, observed):
        """Whether every observed sub-pixel comes before every missing one in the order."""
        in_order = np.asarray(observed, dtype=bool).reshape(-1)[self.order]
        return bool(np.all(in_order[:-1] >= in_order[1:]))

    def _run(self, x, observed, rng, naive, progress):
        xp = backend.module_of(x)
        u = backend.uniform(rng, (self.dim, len(x)), x.dtype, xp)
        missing = [i for i in self.order.tolist() if observed is None or not observed[i]]
        with no_grad():
            fill = self.fill_naive if naive else self.fill
            fill(x, u, missing, progress)
        return x

    def fill_naive(self, x, u, missing, progress=None):
        """Draw the `missing` sub-pixels of x in place, in order, by the whole network each."""
        for i in missing:
            x[:, i] = self.draw(raw(self.logits(x))[:, i], u[i])
            if progress is not None:
                progress.update()

    def fill(self, x, u, missing, progress=None):
        """The same, fast; a subclass that can do better than the naive way says how."""
        self.fill_naive(x, u, missing, progress)
