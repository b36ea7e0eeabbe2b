"""Floor 6: what each command does, from its parsed arguments to its output.

Every command takes the argparse namespace, prints to stdout, and returns an exit code or None.
"""

import contextlib
import dataclasses
import json
import math
import sys
import time
from pathlib import Path

from scratchgen import backend, catalog, datasets
from scratchgen.catalog import UsageError
from scratchgen.evaluate import evaluate, independent_pixels
from scratchgen.pictures import Pictures
from scratchgen.run import Run, RunError
from scratchgen.train import Trainer, check_format, part


# ----------------------------------------------------------------------------------- train


def train_model(args):
    """`scratchgen train MODEL`: train, leave a run folder, print the figures."""
    given = {option.name.replace("-", "_") for option in catalog.options_of(args.model)}
    chosen = {name: value for name, value in vars(args).items() if name in given}
    catalog.check_options(args.model, chosen)
    run = Run(args.out or f"runs/{args.model}")
    resuming = args.resume and run.exists()
    if resuming:
        config = _resumed_config(run, args.model, chosen)
    else:
        defaults = {option.name.replace("-", "_"): option.default
                    for option in catalog.options_of(args.model)}
        config = _plain({"model": args.model, **defaults, **chosen})
        if run.exists():
            run.create(config)  # refuses
    backend.get(config["backend"])
    dataset = catalog.load_data(config, args.data_dir)
    model, xp, dtype = catalog.build(config, dataset)
    trainer = Trainer(model, dataset, run, lr=config["lr"], batch_size=config["batch_size"],
                      optimizer=config["optimizer"], max_grad_norm=config["max_grad_norm"],
                      seed=config["seed"], xp=xp, dtype=dtype)
    if resuming:
        arrays = run.load_checkpoint()
        if arrays is not None:
            with _checkpoint_errors(run):
                trainer.load_state(arrays)
        run.write_config(config)  # with the epochs of now, if there are more
    else:
        run.create(config)
    parameters = sum(p.size for p in model.parameters())
    print(f"{args.model} on {dataset.protocol}: {len(dataset.train):,} training images, "
          f"{parameters:,} parameters, seed {config['seed']}, {config['backend']}", flush=True)
    start = time.perf_counter()
    first = trainer.epoch + 1
    trainer.train(config["epochs"])
    model.load_state_dict(trainer.best["state"])
    done = f"trained epochs {first} to {trainer.epoch} in {time.perf_counter() - start:.0f} s"
    if first > trainer.epoch:
        done = f"trained to epoch {trainer.epoch} before"
    print(f"{done}; best on validation: epoch {trainer.best['epoch']}")
    _print_table(model, dataset, config, xp, dtype)
    Pictures(model, dataset, xp, dtype).of_run(run, config["model"], config["seed"])
    pictures = ", ".join(sorted(path.name for path in run.folder.glob("*.png")))
    print(f"in {run.folder}: config.json, metrics.jsonl, checkpoint.npz, {pictures}")


def _resumed_config(run, model, chosen):
    """The run's own config; UsageError where the options given now say something else."""
    config = _checked_config(run, run.config())
    if config["model"] != model:
        raise UsageError(f"{run.folder} holds a run of {config['model']}, not of {model}")
    for name, value in _plain(chosen).items():
        if config[name] == value:
            continue
        if name == "epochs" and value > config["epochs"]:
            config["epochs"] = value  # training longer contradicts nothing
            continue
        raise UsageError(f"--resume: --{name.replace('_', '-')} {value} contradicts the run in "
                         f"{run.folder}, which has {config[name]}: leave the option out")
    return config


def _checked_config(run, config):
    """`config` if this version can build its model, or a RunError that says why not."""
    try:
        catalog.check_options(config["model"], config)
        missing = [option.name for option in catalog.options_of(config["model"])
                   if option.name.replace("-", "_") not in config]
        if missing:
            raise UsageError(f"it lacks {', '.join(missing)}")
    except (UsageError, TypeError) as error:
        raise RunError(f"{run.config_path} does not fit this version: {error}") from error
    return config


def _plain(config):
    """As it comes back from JSON: lists for tuples."""
    return json.loads(json.dumps(config))


@contextlib.contextmanager
def _checkpoint_errors(run):
    """Turn what goes wrong inside a checkpoint into a RunError that names the file."""
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{run.checkpoint_path} does not belong to this run: {error}") from error


# --------------------------------------------------------------- commands on a trained run


def _load(args):
    """The trained model of a run, with its best parameters: (run, config, model, data, ...)."""
    run = Run(args.run)
    config = _checked_config(run, run.config())
    if args.backend:
        config["backend"] = args.backend
    arrays = run.load_checkpoint()
    if arrays is None:
        raise RunError(f"{run.folder} has no checkpoint yet: train it with --resume")
    dataset = catalog.load_data(config, args.data_dir)
    model, xp, dtype = catalog.build(config, dataset)
    with _checkpoint_errors(run):
        check_format(arrays)
        model.load_state_dict(part(arrays, "best/"))
    return run, config, model, dataset, xp, dtype


def evaluate_run(args):
    """`scratchgen evaluate RUN`."""
    run, config, model, dataset, xp, dtype = _load(args)
    if args.iw_samples and not hasattr(model, "log_weights"):
        raise UsageError(f"--iw-samples: {config['model']} has no latent distribution")
    if args.examples and not args.iw_samples:
        raise UsageError("--examples goes with --iw-samples")
    if not args.json:
        print(f"{config['model']} on {dataset.protocol}, {run.folder}")
        _print_table(model, dataset, config, xp, dtype, args.iw_samples, args.examples)
        return
    splits = {}
    for split in ("valid", "test"):
        estimates, baseline = _figures(model, dataset, config, split, xp, dtype, args.iw_samples,
                                       args.examples)
        rows = [_as_json(estimate) for estimate in estimates]
        splits[split] = {**rows[0], "all": rows, "baseline": _as_json(baseline)}
    print(json.dumps({"model": config["model"], "dataset": config["dataset"],
                      "protocol": dataset.protocol, "seed": config["seed"], "splits": splits}))


def _figures(model, dataset, config, split, xp, dtype, iw_samples, examples):
    estimates = evaluate(model, dataset, split, config["seed"], xp, dtype, iw_samples, examples)
    return estimates, independent_pixels(dataset, split, config["seed"])


def _as_json(estimate):
    """An estimate's fields; a figure that is no likelihood has no nats and no bits/dim."""
    fields = dataclasses.asdict(estimate)
    unit = fields.pop("unit")
    if math.isnan(fields["stderr"]):
        fields["stderr"] = None  # of a single example; JSON knows no NaN
    if unit != "nats":
        fields |= {unit: fields["nats"], "nats": None, "bits_per_dim": None}
    return fields


def _print_table(model, dataset, config, xp, dtype, iw_samples=0, examples=None):
    unit = model.unit.replace("_", " ")
    print(f"{'':6}{unit:>14}{'s.e.':>8}{'bits/dim':>10}  estimator")
    for split in ("valid", "test"):
        estimates, baseline = _figures(model, dataset, config, split, xp, dtype, iw_samples,
                                       examples)
        for estimate in [*estimates, baseline]:
            details = [f"K = {estimate.k:,}"] if estimate.k > 1 else []
            if estimate.examples < len(dataset.split(split)):
                details.append(f"{estimate.examples:,} images")
            bits = f"{estimate.bits_per_dim:10.4f}" if estimate.unit == "nats" else f"{'-':>10}"
            name = estimate.estimator + (f" ({', '.join(details)})" if details else "")
            print(f"{split:6}{estimate.nats:14.3f}{estimate.stderr:8.3f}{bits}  {name}",
                  flush=True)


def sample_run(args):
    """`scratchgen sample RUN`."""
    run, config, model, dataset, xp, dtype = _load(args)
    if not hasattr(model, "interpolate"):
        model.sample(args.n, None)  # refuses, and says why
    path = Path(args.out) if args.out else run.folder / "samples.png"
    Pictures(model, dataset, xp, dtype).samples(path, args.n, args.seed, args.mean)
    print(path)


def reconstruct_run(args):
    """`scratchgen reconstruct RUN`."""
    run, config, model, dataset, xp, dtype = _load(args)
    path = Path(args.out) if args.out else run.folder / "reconstructions.png"
    Pictures(model, dataset, xp, dtype).reconstructions(path, args.n)
    print(path)


# -------------------------------------------------------------------------------- the rest


def list_datasets(args):
    """`scratchgen datasets`."""
    for row in datasets.describe(args.data_dir):
        height, width = row["shape"]
        sizes = " / ".join(f"{n:,}" for n in row["sizes"])
        state = "here" if row["present"] else "not here yet"
        print(f"{row['name']}: {sizes} images of {height}x{width}, {row['levels']} levels, "
              f"{row['encoding']} by default\n"
              f"    {state}: {row['where']}\n"
              f"    {row['credit']}\n"
              f"    licence: {row['licence']}")


def check_gradients(args):
    """`scratchgen gradcheck`: exit code 1 if any gradient is wrong."""
    from scratchgen import gradcheck
    xp = backend.get(args.backend)
    rows = gradcheck.run(xp, args.only)
    if not rows:
        raise UsageError(f"--only {args.only}: no op, layer, likelihood or objective of that name")
    print(gradcheck.format_table(rows))
    failed = [row for row in rows if not row.ok]
    if failed:
        print(f"{len(failed)} of {len(rows)} FAIL", file=sys.stderr)
    return 1 if failed else 0
