"""The benchmarks' plumbing: what runs, what is compared, what is printed. No speed is tested."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def benchmarks(monkeypatch):
    """The package beside `scratchgen`, which is not installed with it."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import command, report, runner
    return {"command": command, "report": report, "runner": runner}


def nothing():
    """The work of contenders that only stand for one."""


def run_command(*arguments, **environment):
    return subprocess.run([sys.executable, "-W", "error", "-m", "benchmarks", *arguments],
                          cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT), **environment})


NAMES = ["engine", "vae", "pixelcnn", "sampling", "lstm", "row-lstm-16", "row-lstm-32",
         "diagonal-bilstm-16", "diagonal-bilstm-32", "row-sampling", "diagonal-sampling", "import"]


def test_a_tiny_pass_of_every_benchmark(tmp_path):
    done = run_command("--tiny", "--json", f"{tmp_path}/all.json", "--plot", f"{tmp_path}/all.png")
    assert done.returncode == 0, done.stderr
    assert "OPENBLAS_NUM_THREADS=" in done.stdout
    figures = json.loads((tmp_path / "all.json").read_text())
    assert [b["name"] for b in figures["benchmarks"]] == NAMES
    for benchmark in figures["benchmarks"]:
        assert f"\n{benchmark['name']}: " in done.stdout
        assert benchmark["calibration"]["median"] > 0
        for entry in benchmark["contenders"]:
            assert entry["name"] in done.stdout
            if entry["status"] != "measured":
                assert f"{entry['name']}: {entry['status']}" in done.stdout
                continue
            assert entry["median"] > 0 and len(entry["times"]) == benchmark["repeats"] == 1
    numpy_row = figures["benchmarks"][-1]["contenders"][1]
    assert numpy_row["name"] == "import numpy" and numpy_row["ratio"] == 1
    assert numpy_row["ours_ratio"] > 0
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name, peer", [("engine", "torch"), ("engine", "autograd"),
                                        ("vae", "torch")])
def test_ours_computes_what_the_peer_computes(benchmarks, name, peer):
    if importlib.util.find_spec(peer) is None:
        pytest.skip(f"{peer} is not installed: nothing to compare with")
    command, runner = benchmarks["command"], benchmarks["runner"]
    contenders = [c for c in command.BENCHMARKS[name].contenders(tiny=True)
                  if c.backend == "numpy" and (c.ours or c.needs == peer)]
    first, *others = [[runner.on_host(x) for x in c.setup()()] for c in contenders]
    assert len(others) >= 1
    for other in others:
        for x, y in zip(first, other, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_ratios_are_those_of_the_times(benchmarks):
    runner = benchmarks["runner"]
    # Two clock readings for each turn; the calibration comes last in a round.
    seconds = iter([2.0, 1.0, 9.0, 3.0, 4.0, 9.0, 10.0, 5.0, 9.0])
    readings = iter([reading for second in seconds for reading in (0.0, second)])
    results, calibration = runner.run(
        [runner.Contender("mine", lambda: nothing, ours=True),
         runner.Contender("theirs", lambda: nothing, reference=True)],
        repeats=3, rest=0, clock=lambda: next(readings))
    mine, theirs = results
    assert mine.times.tolist() == [2, 3, 10] and theirs.times.tolist() == [1, 4, 5]
    assert calibration.tolist() == [9, 9, 9]
    assert mine.ratio == 3 / 4  # of the medians
    assert mine.paired_ratio == 2  # the median of 2/1, 3/4, 10/5
    assert theirs.ours_ratio == 2 and theirs.ratio == 1 and mine.ours_ratio is None


def test_turns_are_interleaved_and_warmed_up(benchmarks):
    runner = benchmarks["runner"]
    order = []
    waits = []

    def contender(name):
        return runner.Contender(name, lambda: lambda: order.append(name),
                                synchronize=lambda: waits.append(name))

    runner.run([contender("a"), contender("b")], repeats=2, rest=0)
    check, turns = order[:2], order[2:]
    assert check == ["a", "b"]
    assert turns == ["a", "a", "b", "b"] * 2  # an untimed and a timed call each
    assert waits == turns  # before the clock is read, every time


def test_an_absent_peer_is_reported_and_the_rest_measured(benchmarks):
    runner, report = benchmarks["runner"], benchmarks["report"]

    def never():
        raise AssertionError("a peer that is not installed was set up")

    def finds_nothing():
        raise runner.Unavailable("no device found")

    results, calibration = runner.run(
        [runner.Contender("here", lambda: nothing, ours=True),
         runner.Contender("peer", never, needs="no_such_package", reference=True, goal=0.5),
         runner.Contender("device", finds_nothing)], repeats=2, rest=0)
    here, peer, device = results
    assert here.ratio is None and len(here.times) == 2
    summary = report.summary("some", "title", results, calibration, tiny=False)
    assert [c["status"] for c in summary["contenders"]] == [
        "measured", "not installed (no_such_package)", "no device found"]
    text = report.table(summary)
    assert "peer: not installed (no_such_package)" in text
    assert "device: no device found" in text
    report.plot([summary], os.devnull)


def test_goals_are_judged_by_the_paired_ratio(benchmarks):
    runner, report = benchmarks["runner"], benchmarks["report"]
    slow = runner.Contender("peer", lambda: nothing, reference=True, goal=0.9)

    def table(ours_ratio, tiny=False):
        result = runner.Result(slow, times=np.ones(2), ratio=1.0, paired_ratio=1.0,
                               ours_ratio=ours_ratio)
        return report.table(report.summary("some", "title", [result], np.ones(2), tiny))

    assert "0.90 met" in table(0.89)
    assert "0.90 missed" in table(0.91)
    assert "met" not in table(0.89, tiny=True)


def test_contenders_that_disagree_are_not_measured(benchmarks):
    runner = benchmarks["runner"]

    def returning(*values):
        return lambda: lambda: [np.array(value) for value in values]

    right = runner.Contender("right", returning([1.0, 2.0], 3.0))
    runner.run([right, runner.Contender("same", returning([1.0, 2.0], 3.0))], 1, rest=0)
    for values in [([1.0, 2.002], 3.0),
                   ([1.0, 2.0], 3.002), ([[1.0, 2.0]], 3.0), ([1.0, np.nan], 3.0)]:
        with pytest.raises(runner.Disagreement, match="wrong and right do not compute the same"):
            runner.run([right, runner.Contender("wrong", returning(*values))], 1, rest=0)


@pytest.mark.parametrize("arguments, code, message", [
    (["nonesuch"], 2,
     f"unknown benchmark 'nonesuch': choose from {', '.join(NAMES)}"),
    (["--repeats", "0"], 2, "must be a whole number from 1, not '0'"),
    (["--json", "no/such/folder/x.json"], 2, "there is no folder no/such/folder"),
    (["--backend", "torch"], 2, "invalid choice: 'torch'")])
def test_wrong_questions(benchmarks, capsys, arguments, code, message):
    try:
        returned = benchmarks["command"].main(arguments)
    except SystemExit as error:
        returned = error.code
    out, err = capsys.readouterr()
    assert returned == code and out == ""
    assert message in err.splitlines()[-1]
    if arguments == ["nonesuch"]:
        assert len(err.splitlines()) == 1


def test_a_backend_that_cannot_be_used(benchmarks, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # importing it now fails
    assert benchmarks["command"].main(["engine", "--backend", "cupy"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and "backend cupy" in err
