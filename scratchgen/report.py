"""Floor 5: figures as a table, as JSON, and side by side for several runs.

Figures of different data protocols never stand in one table, nor exact likelihoods in one
column with bounds.
"""

import dataclasses
import json
import math

from scratchgen.baselines import Baselines
from scratchgen.evaluate import evaluate
from scratchgen.run import RunError

SPLITS = ("valid", "test")


def rows(model, dataset, seed, xp, dtype, iw_samples=0, examples=None):
    """Yield (split, estimates, baselines) for validation and test data."""
    baselines = Baselines(dataset, seed)
    for split in SPLITS:
        estimates = evaluate(model, dataset, split, seed, xp, dtype, iw_samples, examples)
        yield split, estimates, baselines.rows(split)


def print_table(model, dataset, splits):
    """Print what `rows` yields, line by line as it comes."""
    print(f"{'':6}{model.unit.replace('_', ' '):>14}{'s.e.':>8}{'bits/dim':>10}  estimator")
    for split, estimates, others in splits:
        for estimate in [*estimates, *others]:
            details = [f"K = {estimate.k:,}"] if estimate.k > 1 else []
            if estimate.examples < len(dataset.split(split)):
                details.append(f"{estimate.examples:,} images")
            bits = f"{estimate.bits_per_dim:10.4f}" if estimate.unit == "nats" else f"{'-':>10}"
            name = estimate.estimator + (f" ({', '.join(details)})" if details else "")
            print(f"{split:6}{estimate.nats:14.3f}{estimate.stderr:8.3f}{bits}  {name}",
                  flush=True)


def as_json(config, dataset, splits):
    """What `rows` yields as one JSON object; the first estimate of a split is its figure."""
    described = {}
    for split, estimates, others in splits:
        every = [_fields(estimate) for estimate in estimates]
        described[split] = {**every[0], "all": every,
                            "baselines": [_fields(other) for other in others]}
    return {"model": config["model"], "dataset": config["dataset"],
            "protocol": dataset.protocol, "seed": config["seed"], "splits": described}


def _fields(estimate):
    """An estimate's fields; a figure that is no likelihood has no nats and no bits/dim."""
    fields = dataclasses.asdict(estimate)
    unit = fields.pop("unit")
    if math.isnan(fields["stderr"]):
        fields["stderr"] = None  # of a single example; JSON knows no NaN
    if unit != "nats":
        fields |= {unit: fields["nats"], "nats": None, "bits_per_dim": None}
    return fields


def comparison(runs):
    """The figures.json of several runs as text: one table per data protocol, best first."""
    tables = {}
    for run in runs:
        figures = read_figures(run)
        tables.setdefault(figures["protocol"], []).append((run.folder, figures))
    blocks = []
    for protocol, members in sorted(tables.items()):
        members.sort(key=lambda member: _test_nats(member[1]))
        lines = [f"{protocol}, test nats per image",
                 f"{'exact':>10}{'bound':>10}{'s.e.':>8}{'bits/dim':>10}{'parameters':>12}"
                 f"{'training s':>12}{'sample ms':>11}  run"]
        lines += [_line(folder, figures) for folder, figures in members]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def read_figures(run):
    """figures.json of a run; RunError if the run has not got so far, or it is damaged."""
    path = run.folder / "figures.json"
    if not path.exists():
        raise RunError(f"{run.folder} has no figures.json: finish its training with --resume")
    try:
        figures = json.loads(path.read_text())
        figures["protocol"], figures["splits"]["test"]["nats"], figures["parameters"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read ({error}): write it again with train "
                       "--resume") from error
    return figures


def _test_nats(figures):
    nats = figures["splits"]["test"]["nats"]
    return math.inf if nats is None else nats


def _line(folder, figures):
    test = figures["splits"]["test"]
    if test["nats"] is None:
        columns = f"{'no likelihood':>20}{'':8}{'':10}"
    else:
        exact = test["estimator"] == "exact"
        nats = f"{test['nats']:.2f}"
        columns = (f"{nats if exact else '':>10}{'' if exact else nats:>10}"
                   f"{test['stderr'] or math.nan:8.2f}{test['bits_per_dim']:10.4f}")
    sampling = figures["sample_ms"]
    return (f"{columns}{figures['parameters']:>12,}{figures['seconds']:>12.0f}"
            f"{'-' if sampling is None else format(sampling, '.2f'):>11}  {folder} "
            f"({figures['model']}, {test['estimator']})")
