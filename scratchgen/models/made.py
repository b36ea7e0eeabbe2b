"""Floor 4: MADE, the masked autoencoder. Read belief_net.py before.

A multilayer perceptron whose weights are masked so that output i sees only what comes before
i in an order. Input t (0-based, in the order) has degree t + 1, a hidden unit degree
m(k) in 1..D-1, an output t degree t + 1, and a connection exists where

    hidden from input or hidden:   m(k) >= degree of what it reads,
    output from hidden or input:   degree(output) > degree of what it reads.

Germain et al. 2015, "MADE: Masked Autoencoder for Distribution Estimation": eqs. 12-15 are the
masks, section 4.2 the order- and connectivity-agnostic training. Several masks make an
ensemble, whose likelihood is the mean of the members' likelihoods, (1/M) sum_m p_m(x). Averaging
logits instead would not give a distribution: it does not sum to one.
"""

import math

import numpy as np

from scratchgen import backend, ops
from scratchgen.models.autoregressive import AutoregressiveModel
from scratchgen.nn import Linear, Module, init
from scratchgen.tensor import Tensor, no_grad, raw

ORDERS = ("natural", "random")


class Wiring(Module):
    """One member: an order, and the 0/1 masks of every layer that follow from it."""

    constants = ("hidden_masks", "out_mask", "direct_mask")

    def __init__(self, order, degrees, outputs):
        self.order = order
        self.degrees = degrees  # of each hidden layer's units
        positions = np.argsort(order) + 1  # the degree of each sub-pixel
        reads = [positions, *degrees]
        self.hidden_masks = [(degree[:, None] >= read[None, :]).astype(np.float32)
                             for degree, read in zip(degrees, reads)]
        after = positions.repeat(outputs)[:, None]
        self.out_mask = (after > reads[-1][None, :]).astype(np.float32)
        self.direct_mask = (after > positions[None, :]).astype(np.float32)


class MADE(AutoregressiveModel):
    """Hidden layers of ReLU units, and direct connections from inputs to outputs.

    masks: how many wirings share the weights; order: "natural" (raster), or "random", one
    for each wiring. With several, training uses one at a time. log_odds (D,): as in the belief net.
    """

    def __init__(self, dim, rng, hidden=(500,), levels=2, masks=1, order="natural",
                 log_odds=None):
        super().__init__(dim, levels)
        if order not in ORDERS:
            raise ValueError(f"order {order!r}: choose one of {', '.join(ORDERS)}")
        if masks < 1 or not hidden:
            raise ValueError("MADE needs at least one mask and one hidden layer")
        sizes = [dim, *hidden]
        self.layers = [Linear(n_in, n_out, rng, init.kaiming_normal)
                       for n_in, n_out in zip(sizes[:-1], sizes[1:])]
        self.out = Linear(sizes[-1], dim * self.outputs, rng)
        self.out.bias = Tensor(self.first_bias(log_odds).reshape(-1))
        self.direct = Tensor(np.zeros((dim * self.outputs, dim), dtype=np.float32))
        self.wirings = [self._wire(rng, hidden, order) for _ in range(masks)]
        self.order = self.wirings[0].order

    def _wire(self, rng, hidden, order):
        lowest = 1
        degrees = []
        for units in hidden:
            degrees.append(rng.integers(lowest, max(self.dim, lowest + 1), units))
            lowest = degrees[-1].min()
        natural = np.arange(self.dim)
        return Wiring(natural if order == "natural" else rng.permutation(natural), degrees,
                      self.outputs)

    def logits(self, x, member=0):
        """(N, D) -> (N, D) or (N, D, K), by one of the wirings."""
        wiring = self.wirings[member]
        x = self.scaled(x)
        h = x
        for layer, mask in zip(self.layers, wiring.hidden_masks):
            h = ops.relu(ops.linear(h, layer.weight * mask, layer.bias))
        out = ops.linear(h, self.out.weight * wiring.out_mask, self.out.bias)
        out = out + x @ (self.direct * wiring.direct_mask).T
        return out if self.outputs == 1 else out.reshape(len(x), self.dim, self.outputs)

    def member_log_prob(self, x, member):
        """log p_m(x) of one wiring, (N,)."""
        return self.log_prob_of(x, self.logits(x, member))

    def log_prob(self, x):
        """log (1/M) sum_m p_m(x), (N, D) -> (N,)."""
        members = [self.member_log_prob(x, m) for m in range(len(self.wirings))]
        if len(members) == 1:
            return members[0]
        return ops.logsumexp(ops.stack(*members), axis=0) - math.log(len(members))

    def objective(self, x, rng):
        """log p_m(x) of one wiring, drawn for the batch."""
        return self.member_log_prob(x, int(rng.integers(len(self.wirings))))

    def figure(self, x, rng=None):
        return -self.log_prob(x)

    def context(self, i):
        """Whatever comes before i in the order of any member (the direct connections see it)."""
        allowed = np.zeros(self.dim, dtype=bool)
        for wiring in self.wirings:
            allowed[wiring.order[:int(np.argmax(wiring.order == i))]] = True
        return allowed

    def completes_exactly(self, observed):
        """Exact for a single member whose order fits; of several, p(x) would have to choose."""
        return len(self.wirings) == 1 and super().completes_exactly(observed)

    def _run(self, x, observed, rng, naive, progress):
        """Each image is drawn by one member, chosen at random: that is what the mixture means."""
        xp = backend.module_of(x)
        u = backend.uniform(rng, (self.dim, len(x)), x.dtype, xp)
        members = rng.integers(len(self.wirings), size=len(x))
        with no_grad():
            for member, wiring in enumerate(self.wirings):
                rows = xp.asarray(np.nonzero(members == member)[0])
                images = x[rows]
                missing = [i for i in wiring.order.tolist() if observed is None or not observed[i]]
                fill = self.fill_member_naive if naive else self.fill_member
                fill(images, u[:, rows], missing, member)
                x[rows] = images
                if progress is not None:
                    progress.update(len(missing) / len(self.wirings))
        return x

    def fill_member_naive(self, x, u, missing, member):
        """Draw the `missing` sub-pixels in place by the whole network of one member each."""
        for i in missing:
            x[:, i] = self.draw(raw(self.logits(x, member))[:, i], u[i])

    def fill_member(self, x, u, missing, member):
        """The same, computing every hidden unit once: as soon as all it sees is known.

        Before position t is drawn, the units of degree t have everything they read; they are
        switched on, and what they send to later units and to the outputs is added there.
        """
        wiring = self.wirings[member]
        xp = backend.module_of(x)
        weights = [raw(layer.weight) * mask
                   for layer, mask in zip(self.layers, wiring.hidden_masks)]
        weights.append(raw(self.out.weight) * wiring.out_mask)
        sums = [xp.zeros((len(x), weight.shape[0]), x.dtype) + raw(layer.bias)
                for weight, layer in zip(weights, [*self.layers, self.out])]
        direct = raw(self.direct) * wiring.direct_mask
        for t, i in enumerate(wiring.order.tolist()):
            for layer, degrees in enumerate(wiring.degrees):
                ready = xp.asarray(np.nonzero(degrees == t)[0])
                if len(ready):
                    h = ops.relu(sums[layer][:, ready])
                    sums[layer + 1] += h @ weights[layer + 1][:, ready].T
            if i in missing:
                row = slice(i * self.outputs, (i + 1) * self.outputs)
                logits = sums[-1][:, row]
                x[:, i] = self.draw(logits[:, 0] if self.outputs == 1 else logits, u[i])
            value = self.scaled(x[:, i:i + 1])
            sums[0] += value * weights[0][:, i]
            sums[-1] += value * direct[:, i]
