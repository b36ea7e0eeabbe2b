"""Every entry of the gradient table, on every backend; and the table covers what there is."""

import importlib
import pkgutil

import numpy as np
import pytest

import scratchgen
from scratchgen import backend, distributions, gradcheck, nn, tensor
from scratchgen.tensor import Tensor, grad


def label(case):
    return " ".join(filter(None, [case.kind, case.name, case.variant]))


CASES = {label(case): case for case in gradcheck.cases(np)}
FUNCTIONS = [name for name, case in CASES.items() if type(case) is gradcheck.Case]


@pytest.fixture(scope="module")
def table(xp):
    return {label(case): case for case in gradcheck.cases(xp)}


@pytest.mark.parametrize("name", CASES)
def test_gradients_agree(table, name, xp):
    case = table[name]
    repeats = 2 if xp is np else 1  # the same functions again: here they must stay on the device
    assert case.error(repeats) <= case.tolerance


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_stays_float32_up_to_second_order(table, name):
    case = table[name]
    tensors = [Tensor(x.astype("float32")) for x in case.arrays]
    out = case.function(*tensors)
    assert out.dtype == np.float32
    ones = backend.module_of(out.data).ones_like(out.data)
    first = grad(out, tensors, ones)
    assert {g.dtype for g in first} == {np.dtype(np.float32)}
    graph = grad(out, tensors, ones, create_graph=True)
    assert {g.dtype for g in graph} == {np.dtype(np.float32)}
    for g in graph:
        second = grad(g, tensors, backend.module_of(g.data).ones_like(g.data))
        assert {h.dtype for h in second} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradient_as_a_graph_equals_the_plain_gradient(table, name):
    case = table[name]
    tensors = [Tensor(x) for x in case.arrays]
    out = case.function(*tensors)
    plain = grad(out, tensors, out.data)
    graph = grad(out, tensors, out.data, create_graph=True)
    for a, b in zip(plain, graph):
        assert type(b) is Tensor
        np.testing.assert_allclose(backend.to_numpy(a), b.numpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if CASES[name].kind != "objective"])
def test_arrays_in_array_out(table, name):
    case = table[name]
    on_arrays = case.function(*case.arrays)
    on_tensors = case.function(*[Tensor(x) for x in case.arrays])
    assert type(on_arrays) is not Tensor
    np.testing.assert_allclose(backend.to_numpy(on_arrays), on_tensors.numpy(), rtol=1e-13)


# --------------------------------------------------------------------- nothing is missing


def all_modules():
    """Every module of the package, imported: an op registers itself when its file is."""
    found = pkgutil.walk_packages(scratchgen.__path__, "scratchgen.")
    return [importlib.import_module(file.name) for file in found
            if not file.name.endswith("__main__")]


def names_of(kind):
    return {case.name for case in CASES.values() if case.kind == kind}


def test_labels_are_unique():
    assert len(CASES) == len(gradcheck.cases(np))


def test_every_op_is_checked():
    all_modules()
    checked = {name.split()[0] for name in names_of("op")}
    assert checked == {*tensor.OPS, "mean"}


def test_every_fused_op_is_compared_with_its_twin():
    all_modules()
    fused = {name for name, op in tensor.OPS.items() if op.twin is not None}
    compared = {case.name.split()[0] for case in CASES.values()
                if case.kind == "op" and type(case) is gradcheck.Comparison}
    assert compared == fused


def test_every_layer_is_checked():
    layers = {name for name in nn.__all__ if callable(getattr(nn, name))} - {"Module"}
    assert len(layers) >= 3
    assert names_of("layer") == layers


def test_every_likelihood_is_checked():
    families = [name for name, value in vars(distributions).items() if hasattr(value, "log_prob")]
    assert len(families) >= 4
    assert names_of("likelihood") == {f"{family}.{method}" for family in families
                                      for method in ("log_prob", "entropy", "kl_divergence")}


def test_every_family_with_rsample_is_checked_three_ways():
    families = {name for name, value in vars(distributions).items() if hasattr(value, "rsample")}
    for family in families:
        assert len([n for n in names_of("reparameterisation") if n.startswith(family)]) == 3


def test_every_objective_is_checked():
    all_modules()
    found = nn.Module.__subclasses__()
    for model in found:  # grows: a class that others are made from is looked through
        found.extend(model.__subclasses__())
    models = {model.__name__ for model in found
              if model.__module__.startswith("scratchgen.") and not model.__subclasses__()
              and hasattr(model, "players")}
    assert {name.split()[0] for name in names_of("objective")} == models


# -------------------------------------------------------------------------- running it


def test_rows_one_for_each_kind_and_name():
    rows = gradcheck.run(np, "likelihood")
    assert [row.kind for row in rows] == ["likelihood"] * len(rows)
    assert {row.name for row in rows} == names_of("likelihood")
    assert len(rows) == len(names_of("likelihood"))
    assert all(row.ok and 0 < row.error < 1e-6 and row.order == 2 for row in rows)


@pytest.mark.parametrize("only, expected", [
    ("exp", {"exp"}),
    ("log", {"log"}),
    ("bernoulli_log_prob", {"bernoulli_log_prob", "bernoulli_log_prob and its twin"}),
    ("Normal.log_prob", {"Normal.log_prob"}),
    ("Bernoulli", {"Bernoulli.log_prob", "Bernoulli.entropy", "Bernoulli.kl_divergence"}),
    ("layer", names_of("layer"))])
def test_only(monkeypatch, only, expected):
    monkeypatch.setattr(gradcheck, "check_grads", lambda *args, **options: 0.0)  # which, not how
    assert {row.name for row in gradcheck.run(np, only)} == expected


def test_only_something_unknown():
    assert gradcheck.run(np, "convolve") == []


def test_row_is_the_worst_of_its_cases_and_the_least_order():
    def case(error, order):
        return gradcheck.Comparison("op", "f", lambda: error, (), order, tolerance=1.0)
    row = gradcheck._row("op", "f", [case(0.25, 3), case(0.5, 2), case(0.125, 3)])
    assert (row.error, row.order, row.ok) == (0.5, 2, True)
    assert not gradcheck._row("op", "f", [case(0.5, 2), case(1.5, 2)]).ok
    assert not gradcheck._row("op", "f", [case(0.5, 2), case(float("nan"), 2)]).ok


def test_wrong_rule_is_a_failing_row(monkeypatch):
    rule = tensor.OPS["tanh"].gradients[0]
    monkeypatch.setitem(tensor.OPS["tanh"].gradients, 0, lambda *args: rule(*args) * 1.001)
    rows = gradcheck.run(np, "tanh")
    assert not rows[0].ok
    assert rows[0].error == pytest.approx(1e-3, rel=0.01)
    lines = gradcheck.format_table(rows).splitlines()
    assert lines[1].split() == ["op", "tanh", "3", "1.0e-03", "1e-06", "FAIL"]
    assert lines[-1] == "1 of 1 checks FAIL"


def test_broken_rule_is_a_failing_row_with_its_reason(monkeypatch):
    monkeypatch.setitem(tensor.OPS["tanh"].gradients, 0, lambda g, out, x: g[0])
    lines = gradcheck.format_table(gradcheck.run(np, "tanh")).splitlines()
    assert lines[1].split() == ["op", "tanh", "3", "inf", "1e-06", "FAIL"]
    assert lines[2].startswith("tanh: tanh: the gradient of argument 0 is float64[4]")


def test_table_of_passing_rows():
    rows = [gradcheck.Row("op", "exp", 2e-9, 3, True),
            gradcheck.Row("reparameterisation", "score", 1.5, 0, True, 4.0)]
    lines = gradcheck.format_table(rows).splitlines()
    assert lines[0].split() == ["kind", "name", "order", "error", "at", "most"]
    assert lines[1].split() == ["op", "exp", "3", "2.0e-09", "1e-06", "ok"]
    assert lines[2].split() == ["reparameterisation", "score", "-", "1.5e+00", "4e+00", "ok"]
    assert lines[3] == "all 2 checks pass"
    assert len({line.rindex("ok") for line in lines[1:3]}) == 1


def test_parameters_are_bound_and_put_back(rng):
    layer = nn.mlp([2, 3, 1], rng)
    own = layer.parameters()
    doubled = [Tensor(2 * p.data) for p in own]
    x = np.ones((4, 2), np.float32)
    function = gradcheck.functional(layer, layer)
    out = function(*doubled, x)
    assert all(a is b for a, b in zip(layer.parameters(), own))
    for p in own:
        p.data *= 2
    np.testing.assert_array_equal(out.data, layer(x).data)
    with pytest.raises(ValueError, match="linear"):
        function(*doubled, np.ones((4, 3), np.float32))
    assert all(a is b for a, b in zip(layer.parameters(), own))
