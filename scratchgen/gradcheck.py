"""Floor 6: every gradient there is, checked: the table behind `scratchgen gradcheck`.

`cases` says what is checked, `run` checks it, `format_table` prints it. Read from the top: the
two kinds of check, the running, then the table itself by kind. The ops have a file of their own
(gradcheck_ops.py), so has the reparameterisation gradient. A new op, layer, likelihood or model
is added there; tests fail for one that is not.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial

import numpy as np

from scratchgen import backend, gradcheck_ops, nn, ops
from scratchgen import gradcheck_reparameterisation as reparameterisation
from scratchgen.check import TOLERANCE, check_grads, relative_difference
from scratchgen.distributions import Bernoulli, Categorical, Laplace, Normal, kl_divergence
from scratchgen.models.autoencoder import Autoencoder
from scratchgen.models.belief_net import BeliefNet
from scratchgen.models.coders import DECODER_STDS
from scratchgen.models.gan import GENERATOR_LOSSES
from scratchgen.models.gan_networks import conv_gan, mlp_gan
from scratchgen.models.made import MADE
from scratchgen.models.nade import NADE
from scratchgen.models.pixelcnn import PixelCNN
from scratchgen.models.pixelrnn import VARIANTS, PixelRNN
from scratchgen.models.vae import VAE
from scratchgen.tensor import Tensor, grad


@dataclasses.dataclass(frozen=True)
class Case:
    """A function of arrays whose gradients, up to `order`, are held against finite differences.

    Cases of one kind and name share a row of the table; the name of an op's case starts with
    the op's name, and `variant` says what is particular about this one.
    """

    kind: str
    name: str
    function: Callable
    arrays: tuple
    order: int = 2
    variant: str = ""
    tolerance: float = TOLERANCE

    def error(self, repeats=2):
        """The largest relative error found, along so many directions for each argument."""
        return check_grads(self.function, *self.arrays, order=self.order, tolerance=math.inf,
                           repeats=repeats)


class Comparison(Case):
    """Two ways to the same numbers: `function(*arrays)` is their difference, order is 0."""

    def error(self, repeats=1):
        return self.function(*self.arrays)


@dataclasses.dataclass(frozen=True)
class Row:
    """What the checks of one kind and name found; `reason` says what stopped a check."""

    kind: str
    name: str
    error: float
    order: int
    ok: bool
    tolerance: float = TOLERANCE
    reason: str = ""


def cases(xp):
    """All checks, with their arrays (float64) on the module `xp`."""
    point = _Points(xp, np.random.default_rng(0))
    return [*_ops(point), *_layers(point), *_likelihoods(point), *_reparameterisation(point),
            *_objectives(point)]


def run(xp, only=None):
    """Check everything, or what has `only` as its kind or name: a list of Rows, maybe none."""
    groups = {}
    for case in cases(xp):
        if only is None or only in _names(case):
            groups.setdefault((case.kind, case.name), []).append(case)
    return [_row(kind, name, group) for (kind, name), group in groups.items()]


def format_table(rows):
    """The rows as text, one line each, what went wrong, and a last line with the verdict."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'kind':<20}{'name':<{width}}  order     error   at most"]
    for row in rows:
        lines.append(f"{row.kind:<20}{row.name:<{width}}{row.order or '-':>7}{row.error:>10.1e}"
                     f"{row.tolerance:>10.0e}  {'ok' if row.ok else 'FAIL'}")
    failed = [row for row in rows if not row.ok]
    lines += [f"{row.name}: {row.reason}" for row in failed if row.reason]
    lines.append(f"{len(failed)} of {len(rows)} checks FAIL" if failed
                 else f"all {len(rows)} checks pass")
    return "\n".join(lines)


def _row(kind, name, group):
    errors = []
    reason = ""
    for case in group:
        try:
            errors.append(case.error())
        except Exception as error:  # a broken rule is a row that fails, not the table's end
            errors.append(math.inf)
            reason = reason or f"{case.variant}: {error}".removeprefix(": ")
    return Row(kind, name, max(errors), min(case.order for case in group),
               all(error <= case.tolerance for error, case in zip(errors, group)),
               group[0].tolerance, reason)


def _names(case):
    """What a case can be asked for by: its kind, its name, a word of it, Normal for Normal.x."""
    words = case.name.replace(",", " ").split()
    return [case.kind, case.name, *words, words[0].split(".")[0]]


class _Points:
    """Arrays to check at: away from 0, where many functions have a kink, and of order one."""

    def __init__(self, xp, rng):
        self.xp = xp
        self.rng = rng

    def __call__(self, *shape):
        return self.xp.asarray(self.rng.choice([-1, 1], shape) * self.rng.uniform(0.3, 1.7, shape))

    def at(self, value):
        return self.xp.asarray(np.array([[value]]))

    def positive(self, *shape):
        return self.xp.asarray(self.rng.uniform(0.3, 1.7, shape))

    def fractions(self, *shape):
        return self.xp.asarray(self.rng.uniform(0.1, 0.9, shape))

    def mask(self, *shape):
        return self.xp.asarray(self.rng.random(shape) < 0.5)

    def near(self, parameters):
        """The values of a module's parameters, moved a little: a bias of 0 is a special point."""
        return [self.xp.asarray(backend.to_numpy(p.data) + 0.3 * self.rng.standard_normal(p.shape))
                for p in parameters]


# ------------------------------------------------------------------------------------ ops


def _ops(point):
    for name, variant, function, arrays, order in gradcheck_ops.entries(point):
        yield Case("op", name, function, arrays, order, variant)
    for op, arrays, static in gradcheck_ops.fused_entries(point):
        # Order 1 checks the joint rule, order 2 the gradient of the gradient through the twin.
        yield Case("op", op.name, partial(op, **static), arrays)
        # A rule that writes into its result must not take its order in memory for granted.
        turned = [point.xp.ascontiguousarray(x.T) for x in arrays]
        yield Case("op", op.name, partial(_turned_back, op, static), turned, variant="strided")
        yield Comparison("op", f"{op.name} and its twin",
                         partial(_difference_from_twin, op, static), arrays, 0, tolerance=1e-12)


def _turned_back(op, static, *tensors):
    return op(*[ops.transpose(x) for x in tensors], **static)


def _difference_from_twin(op, static, *arrays):
    """The largest difference between a fused op and its twin, in value or in any gradient."""
    results = []
    for function in (op, op.twin):
        tensors = [Tensor(x) for x in arrays]
        out = function(*tensors, **static)
        results.append([out.data, *grad(out, tensors, out.data)])
    return float(np.max([relative_difference(a, b) for a, b in zip(*results)]))


# --------------------------------------------------------------------------------- layers


def functional(module, function):
    """`function`, which uses `module`, as a function of (*its parameters, *inputs)."""
    names = [name for name, _ in module.named_parameters()]

    def of_parameters(*tensors):
        own = module.parameters()
        _bind(module, names, tensors)
        try:
            return function(*tensors[len(names):])
        finally:
            _bind(module, names, own)
    return of_parameters


def _bind(module, names, tensors):
    """Put `tensors` where the parameters called `names` are, e.g. "layers.0.weight"."""
    for name, tensor in zip(names, tensors):
        *path, attribute = name.split(".")
        owner = module
        for part in path:
            owner = owner[int(part)] if part.isdigit() else getattr(owner, part)
        setattr(owner, attribute, tensor)


def _layers(point):
    for name, layer, shape in [
            ("Linear", nn.Linear(3, 4, point.rng), (2, 5, 3)),
            ("Sequential", nn.Sequential(nn.Linear(3, 4, point.rng), ops.softplus), (2, 3)),
            ("mlp", nn.mlp([3, 5, 4], point.rng), (2, 3)),
            ("Conv2d", nn.Conv2d(3, 4, 2, point.rng, stride=2, padding=1), (2, 3, 4, 5)),
            ("ConvTranspose2d", nn.ConvTranspose2d(3, 4, 2, point.rng, stride=2), (2, 3, 3, 2)),
            ("MaskedConv2d", nn.MaskedConv2d(4, 5, 3, point.rng, colours=3), (2, 3, 4, 4)),
            ("RowLSTM", nn.RowLSTM(3, 2, point.rng), (3, 3, 4, 2)),
            ("DiagonalBiLSTM", nn.DiagonalBiLSTM(3, 2, point.rng), (3, 3, 4, 2))]:
        layer.to(point.xp)
        yield Case("layer", name, functional(layer, layer),
                   (*point.near(layer.parameters()), point(*shape)))
    norm = nn.BatchNorm(3).to(point.xp)
    for statistics, shape in [("running", (2, 3, 4, 5)), ("batch", (4, 3))]:
        forward = partial(norm, statistics=statistics)
        yield Case("layer", "BatchNorm", functional(norm, forward),
                   (*point.near(norm.parameters()), point(*shape)), variant=statistics)
    for options in [{"layers": 2}, {"bidirectional": True, "learned_initial_state": True}]:
        lstm = nn.LSTM(3, 2, point.rng, **options).to(point.xp)
        forward = partial(lambda lstm, x: lstm(x, lengths=[3, 2])[0], lstm)
        yield Case("layer", "LSTM", functional(lstm, forward),
                   (*point.near(lstm.parameters()), point(3, 2, 3)), variant=next(iter(options)))


# ---------------------------------------------------------------------------- likelihoods


def _likelihoods(point):
    def case(family, what, function, *arrays):
        return Case("likelihood", f"{family.__name__}.{what}", function, arrays)

    for family in [Normal, Laplace]:
        yield case(family, "log_prob", lambda loc, log_scale, x, family=family:
                   family(loc, log_scale).log_prob(x), point(4, 3), point(3), point(2, 4, 3))
        yield case(family, "entropy", lambda loc, log_scale, family=family:
                   ops.exp(family(loc, log_scale).entropy()), point(4, 3), point(3))
        yield case(family, "kl_divergence", lambda a, b, c, d, family=family:
                   kl_divergence(family(a, b), family(c, d)),
                   point(4, 3), point(3), point(3), point(4, 3))
    categories = np.array([[2, 0, 2], [1, 4, 3]])
    yield case(Bernoulli, "log_prob", lambda logits, x: Bernoulli(logits).log_prob(x),
               point(4, 3), point.fractions(2, 4, 3))
    yield case(Categorical, "log_prob", lambda logits: Categorical(logits).log_prob(categories),
               point(2, 3, 5))
    for family, shape in [(Bernoulli, (4, 3)), (Categorical, (2, 3, 5))]:
        yield case(family, "entropy", lambda logits, family=family: family(logits).entropy(),
                   point(*shape))
        yield case(family, "kl_divergence", lambda p, q, family=family:
                   kl_divergence(family(p), family(q)), point(*shape), point(*shape))


# ----------------------------------------------------------- the reparameterisation gradient


def _reparameterisation(point):
    """The three ways of gradcheck_reparameterisation.py, for each family that has rsample."""
    def comparison(family, what, function, tolerance, *arrays):
        return Comparison("reparameterisation", f"{family.__name__}.rsample, {what}", function,
                          arrays, order=0, tolerance=tolerance)

    for family in [Normal, Laplace]:
        yield Case("reparameterisation", f"{family.__name__}.rsample, fixed noise",
                   lambda loc, log_scale, family=family: reparameterisation.polynomial(
                       family(loc, log_scale).rsample(np.random.default_rng(2), (2,))),
                   (point(4, 3), point(3)))
        yield comparison(family, "closed form", lambda loc, log_scale, family=family:
                         reparameterisation.closed_form_error(family, loc, log_scale),
                         1e-10, point(3), point(3))
        yield comparison(family, "score function (standard errors)",
                         lambda loc, log_scale, family=family:
                         reparameterisation.score_function_error(family, loc, log_scale,
                                                                 np.random.default_rng(3)),
                         4.0, point.at(0.0), point.at(-1.0))


# ----------------------------------------------------------------------------- objectives


def _objectives(point):
    """Each model's loss, its noise fixed, in all parameters and in the data."""
    for likelihood in ["bernoulli", "mse"]:
        yield _objective(point, f"Autoencoder {likelihood}", Autoencoder, likelihood=likelihood)
    for likelihood, std in [("bernoulli", ""), *[("gaussian", std) for std in DECODER_STDS]]:
        options = {"decoder_std": std} if std else {}
        for posterior, kl in [("normal", "closed"), ("normal", "monte-carlo"),
                              ("laplace", "monte-carlo")]:
            name = " ".join(["VAE", likelihood, std, posterior, kl]).replace("  ", " ")
            yield _objective(point, name, VAE, likelihood=likelihood, posterior=posterior, kl=kl,
                             **options)
    for levels in [2, 3]:
        for model in [BeliefNet(6, levels), NADE(6, point.rng, 7, levels),
                      MADE(6, point.rng, (7, 8), levels, masks=3, order="random")]:
            yield _exact_objective(point, f"{type(model).__name__} {levels} levels", model)
    small = {"channels": 3, "layers": 1, "width": 3, "first_kernel": 3, "head": 3}
    for gated in [False, True]:
        yield _exact_objective(point, f"PixelCNN {'gated' if gated else 'residual'}, 3 colours",
                               PixelCNN((2, 3), point.rng, 3, gated=gated, **small))
    for variant in VARIANTS:
        yield _exact_objective(point, f"PixelRNN {variant}, 3 colours",
                               PixelRNN((2, 3), point.rng, variant, 3, **small))
    # So many kinks that not every point has a smooth one near: these do, whatever stands above.
    yield from _games(_Points(point.xp, np.random.default_rng(5)))


def _games(point):
    """Each player's loss in its own parameters: the others it leaves alone, by design."""
    for loss in GENERATOR_LOSSES:
        perceptrons = mlp_gan(32, point.rng, (5, 4), latent=2, loss=loss).to(point.xp)
        convolutions = conv_gan((4, 8), point.rng, 1, 1, latent=2, loss=loss).to(point.xp)
        parameters = convolutions.parameters()
        # Weights near 0 make samples that are all alike: there batch norm is too steep to check.
        for parameter, moved in zip(parameters, point.near(parameters)):
            parameter.data[...] = 3 * moved
        for what, gan in [("perceptrons", perceptrons), ("convolutions", convolutions)]:
            for player in gan.players():
                yield _player(point, f"GAN {loss} {what}, {player.name}", gan, player)


def _objective(point, name, model_class, **options):
    model = model_class(5, point.rng, hidden=(4,), latent=2, **options)

    def loss(x):
        return model.loss(x, np.random.default_rng(4))
    return Case("objective", name, functional(model, loss),
                (*point.near(model.parameters()), point.fractions(3, 5)))


def _player(point, name, gan, player):
    x = point.fractions(3, 32)
    network = getattr(gan, player.name)

    def loss():
        own = x.astype(network.parameters()[0].dtype)
        return player.loss(own, np.random.default_rng(4))
    return Case("objective", name, functional(network, loss),
                tuple(point.near(network.parameters())))


def _exact_objective(point, name, model):
    """log p(x) of a chain-rule model in all parameters, at images of whole levels."""
    images = point.xp.asarray(point.rng.integers(0, model.levels, (5, model.dim)))
    model.to(point.xp)

    def log_prob():
        return model.log_prob(images.astype(model.parameters()[0].dtype))
    return Case("objective", name, functional(model, log_prob),
                tuple(point.near(model.parameters())))
