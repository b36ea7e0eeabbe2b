"""Floor 3: distributions over vectors of independent coordinates, on Tensors.

The last axis (for Categorical the last but one) is the event: parameters (..., D) describe a
batch of D-dimensional vectors, and log_prob, entropy and kl_divergence sum over D and return
(...) in nats. Parameters say what they are: `log_std`, `log_scale`, `logits`; no probability is
ever clipped, and every function is finite for logits of +-1e4 and log_std of +-20 in float32.

Noise comes from the generator that is passed. `rsample` is differentiable: it moves noise that
does not depend on the parameters (Kingma & Welling 2014, section 2.4).
"""

import math

import numpy as np

from scratchgen import backend, ops
from scratchgen.tensor import fused, raw, unbroadcast

LOG_2PI = math.log(2 * math.pi)


class Normal:
    """N(loc, exp(log_std)**2), the Gaussian: density e**(-z**2/2) / (std sqrt(2 pi))."""

    def __init__(self, loc, log_std):
        self.loc = loc
        self.log_std = log_std

    def log_prob(self, x):
        """(..., D) -> (...): the sum over D of -(z^2 + log 2 pi)/2 - log_std."""
        z = (x - self.loc) * ops.exp(-self.log_std)
        return ops.sum(-0.5 * (z * z + LOG_2PI) - self.log_std, axis=-1)

    def rsample(self, rng, shape=()):
        """loc + std * noise, of shape `shape` + (..., D); differentiable in both parameters."""
        noise = _draw(backend.standard_normal, rng, shape, self.loc, self.log_std)
        return self.loc + ops.exp(self.log_std) * noise

    def sample(self, rng, shape=()):
        """A draw as a plain array."""
        return raw(_without_history(self).rsample(rng, shape))

    def entropy(self):
        """(1 + log 2 pi)/2 + log_std, summed over D."""
        return ops.sum(0.5 * (1 + LOG_2PI) + _full(self.log_std, self.loc), axis=-1)

    def kl_divergence(self, other):
        """KL(self || other): log(s2/s1) + (s1^2 + (m1 - m2)^2) / (2 s2^2) - 1/2, summed."""
        log_ratio = self.log_std - other.log_std
        z = (self.loc - other.loc) * ops.exp(-other.log_std)
        return ops.sum(0.5 * (ops.expm1(2 * log_ratio) + z * z) - log_ratio, axis=-1)


class Laplace:
    """Density e**(-|x - loc|/scale) / (2 scale), scale = exp(log_scale)."""

    def __init__(self, loc, log_scale):
        self.loc = loc
        self.log_scale = log_scale

    def log_prob(self, x):
        """(..., D) -> (...): the sum over D of -|x - loc|/scale - log_scale - log 2."""
        z = ops.abs(x - self.loc) * ops.exp(-self.log_scale)
        return ops.sum(-z - self.log_scale - math.log(2), axis=-1)

    def rsample(self, rng, shape=()):
        """loc + scale * noise by the inverse distribution function of one uniform number."""
        u = _draw(backend.uniform, rng, shape, self.loc, self.log_scale)
        xp = backend.module_of(u)
        tiny = float(xp.finfo(u.dtype).tiny)
        # u = 0 becomes the smallest positive number, so that the logarithm stays finite.
        below = xp.log(xp.maximum(2 * xp.minimum(u, 1 - u), tiny))
        return self.loc + ops.exp(self.log_scale) * xp.where(u < 0.5, below, -below)

    def sample(self, rng, shape=()):
        """A draw as a plain array."""
        return raw(_without_history(self).rsample(rng, shape))

    def entropy(self):
        """1 + log 2 + log_scale, summed over D."""
        return ops.sum(1 + math.log(2) + _full(self.log_scale, self.loc), axis=-1)

    def kl_divergence(self, other):
        """KL(self || other), with d = |m1 - m2|: (b1 e**(-d/b1) + d)/b2 - 1 + log(b2/b1)."""
        d = ops.abs(self.loc - other.loc)
        log_ratio = self.log_scale - other.log_scale
        decay = ops.exp(log_ratio - d * ops.exp(-self.log_scale))
        return ops.sum(decay + d * ops.exp(-other.log_scale) - 1 - log_ratio, axis=-1)


class Bernoulli:
    """Zeros and ones with P(x = 1) = sigmoid(logits)."""

    def __init__(self, logits):
        self.logits = logits

    def log_prob(self, x):
        """(..., D) -> (...): the sum over D of x * logits - log(1 + e**logits)."""
        return bernoulli_log_prob(self.logits, x)

    @property
    def mean(self):
        """P(x = 1)."""
        return ops.sigmoid(self.logits)

    def sample(self, rng, shape=()):
        """A draw as a plain array of zeros and ones: u < P(x = 1), one uniform number each."""
        probability = raw(ops.sigmoid(raw(self.logits)))
        u = _draw(backend.uniform, rng, shape, probability)
        return (u < probability).astype(probability.dtype)

    def entropy(self):
        """-p log p - (1 - p) log(1 - p), summed over D, with log p = -softplus(-l)."""
        p, not_p = ops.sigmoid(self.logits), ops.sigmoid(-self.logits)
        return ops.sum(p * ops.softplus(-self.logits) + not_p * ops.softplus(self.logits), axis=-1)

    def kl_divergence(self, other):
        """KL(self || other) = p log(p/q) + (1 - p) log((1 - p)/(1 - q)), summed over D.

        With p and q as logits no term is large unless the result is, at any logits.
        """
        log_ratio_one = ops.softplus(-other.logits) - ops.softplus(-self.logits)
        log_ratio_zero = ops.softplus(other.logits) - ops.softplus(self.logits)
        p, not_p = ops.sigmoid(self.logits), ops.sigmoid(-self.logits)
        return ops.sum(p * log_ratio_one + not_p * log_ratio_zero, axis=-1)


class Categorical:
    """Integers 0..K-1 with probabilities softmax(logits) along the last axis: (..., D, K)."""

    def __init__(self, logits):
        self.logits = logits

    @property
    def log_probs(self):
        """log p_k, normalised: (..., D, K)."""
        return ops.log_softmax(self.logits, axis=-1)

    def log_prob(self, x):
        """Integers (..., D), of the logits' batch shape -> (...)."""
        return categorical_log_prob(self.logits, x=x)

    def sample(self, rng, shape=()):
        """A draw as a plain integer array: the first k whose cumulated probability exceeds u."""
        cumulated = ops.cumsum(ops.exp(raw(self.log_probs)), axis=-1)
        u = _draw(backend.uniform, rng, shape, cumulated[..., 0])
        # The last sum may fall short of 1 by rounding: it is left out, so k never exceeds K-1.
        return (cumulated[..., :-1] <= u[..., None]).sum(axis=-1)

    def entropy(self):
        """-sum_k p_k log p_k, summed over D."""
        log_p = self.log_probs
        return -ops.sum(ops.exp(log_p) * log_p, axis=(-2, -1))

    def kl_divergence(self, other):
        """KL(self || other) = sum_k p_k (log p_k - log q_k), summed over D."""
        log_p = self.log_probs
        return ops.sum(ops.exp(log_p) * (log_p - other.log_probs), axis=(-2, -1))


def kl_divergence(p, q):
    """KL(p || q) in closed form, for two distributions of one family."""
    if type(p) is not type(q):
        raise NotImplementedError(f"no closed form for KL({type(p).__name__} || "
                                  f"{type(q).__name__}): estimate it by Monte Carlo")
    return p.kl_divergence(q)


# ------------------------------------------------------------ the fused Bernoulli likelihood


def bernoulli_log_prob_twin(logits, x):
    """The sum over the last axis of x log p + (1 - x) log(1 - p), in plain ops.

    With log p = -softplus(-l) and log(1 - p) = -softplus(l), which is the short form
    x * l - softplus(l), but keeps its digits where the model is sure and right.
    """
    return -ops.sum(x * ops.softplus(-logits) + (1 - x) * ops.softplus(logits), axis=-1)


@fused(twin=bernoulli_log_prob_twin)
def bernoulli_log_prob(logits, x):
    """The log-probability of zeros and ones x (..., D) given logits (..., D) -> (...).

    x * l - max(l, 0) - log(1 + e**-|l|): of softplus(l) the large part comes first, where it
    cancels against x * l exactly.
    """
    xp = backend.module_of(logits)
    if x.shape[-1] != logits.shape[-1]:
        raise ValueError("the last axes differ")
    e = xp.abs(logits)
    xp.exp(xp.negative(e, out=e), out=e)  # e**-|l|
    terms = xp.subtract(x, logits > 0, dtype=logits.dtype)
    terms *= logits  # x * l - max(l, 0)
    terms -= xp.log1p(e)
    out = terms.sum(axis=-1)
    return out, (logits, x, e)


@bernoulli_log_prob.joint_rule
def _bernoulli_rule(g, out, saved, needed):
    logits, x, e = saved
    xp = backend.module_of(logits)
    g = g[..., None]
    g_logits = g_x = None
    if needed[0]:
        # sigmoid(l) = e**min(l, 0) / (1 + e**-|l|); e**min(l, 0) is 1 or e, and e is at most 1.
        probability = xp.maximum(e, logits >= 0)  # several times faster than `where`
        probability /= 1 + e
        g_logits = _sum_to((x - probability) * g, logits.shape)
    if needed[1]:
        g_x = _sum_to(logits * g, x.shape)
    return g_logits, g_x


def _sum_to(g, shape):
    """g summed over the axes along which an argument of `shape` was broadcast."""
    return g if g.shape == shape else unbroadcast(g, shape)


# --------------------------------------------------------- the fused categorical likelihood


def categorical_log_prob_twin(logits, *, x):
    """The log-softmax of the categories x, summed over D, in plain ops."""
    log_probs = ops.reshape(ops.log_softmax(logits, axis=-1), shape=(-1,))
    flat = backend.to_numpy(_flat_index(x, logits.shape, np))
    return ops.sum(ops.reshape(ops.getitem(log_probs, index=flat), shape=x.shape), axis=-1)


@fused(twin=categorical_log_prob_twin)
def categorical_log_prob(logits, *, x):
    """The log-probability of categories x (..., D), integers in any dtype -> (...)."""
    xp = backend.module_of(logits)
    flat = _flat_index(x, logits.shape, xp)
    # Rows in memory one after the other, or reshape(-1) would be a copy where the rule writes.
    p = xp.ascontiguousarray(logits - logits.max(axis=-1, keepdims=True))
    chosen = p.reshape(-1)[flat].reshape(x.shape)
    xp.exp(p, out=p)
    total = p.sum(axis=-1)
    p /= total[..., None]
    return (chosen - xp.log(total)).sum(axis=-1), (p, flat)


@categorical_log_prob.joint_rule
def _categorical_rule(g, out, saved, needed):
    p, flat = saved
    g = g[..., None]
    g_logits = p * -g[..., None]
    g_flat = g_logits.reshape(-1)
    picked = backend.module_of(p).broadcast_to(g, p.shape[:-1]).reshape(-1)
    g_flat[flat] = g_flat[flat] + picked  # each place once: the same as adding there
    return [g_logits]


def _flat_index(x, shape, xp):
    """Where the chosen category of each row stands in the flattened logits (..., D, K)."""
    if x.shape != shape[:-1]:
        raise ValueError(f"categories of shape {x.shape} for logits of shape {shape}")
    categories = shape[-1]
    chosen = backend.to_numpy(x).reshape(-1) if xp is np else xp.asarray(x).reshape(-1)
    if chosen.size:
        low, high = chosen.min().item(), chosen.max().item()
        if not (0 <= low and high < categories):
            raise ValueError(f"categories {low}..{high} outside 0..{categories - 1}")
    whole = chosen.astype(np.int64)
    if not (whole == chosen).all().item():
        raise ValueError("categories must be whole numbers")
    return whole + categories * xp.arange(chosen.size)


# ---------------------------------------------------------------------------------- helpers


def _draw(source, rng, shape, *parameters):
    """Noise of shape `shape` + the broadcast shape of the parameters, in their dtype."""
    arrays = [raw(p) for p in parameters]
    xp = backend.module_of(arrays[0])
    event = np.broadcast_shapes(*[array.shape for array in arrays])
    return source(rng, tuple(shape) + event, arrays[0].dtype, xp)


def _without_history(distribution):
    """The same distribution with plain arrays as parameters."""
    return type(distribution)(*(raw(p) for p in vars(distribution).values()))


def _full(x, like):
    """x broadcast to the shape of another parameter."""
    return ops.broadcast_to(x, shape=np.broadcast_shapes(x.shape, like.shape))
