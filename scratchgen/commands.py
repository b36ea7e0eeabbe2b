"""Floor 6: what each command does, from its parsed arguments to its output.

Every command takes the argparse namespace, prints to stdout, and returns an exit code or None.
"""

import contextlib
import dataclasses
import json
import sys
import time
from pathlib import Path

import numpy as np

from scratchgen import backend, catalog, datasets, report
from scratchgen.catalog import UsageError
from scratchgen.pictures import Pictures, side_by_side
from scratchgen.run import Run, RunError, errors_named, write_atomically
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
    trained = _build(run, config, args.data_dir)
    trainer = Trainer(trained.model, trained.dataset, run, lr=config["lr"],
                      batch_size=config["batch_size"], optimizer=config["optimizer"],
                      lr_schedule=config["lr_schedule"],
                      max_grad_norm=config["max_grad_norm"], seed=config["seed"], xp=trained.xp,
                      dtype=trained.dtype)
    if resuming:
        arrays = run.load_checkpoint()
        if arrays is not None:
            with _checkpoint_errors(run):
                trainer.load_state(arrays)
        run.write_config(config)  # with the epochs of now, if there are more
    else:
        run.create(config)
    print(f"{args.model} on {trained.dataset.protocol}: {len(trained.dataset.train):,} training "
          f"images, {trained.parameters():,} parameters, seed {config['seed']}, "
          f"{config['backend']}", flush=True)
    start = time.perf_counter()
    first = trainer.epoch + 1
    trainer.train(config["epochs"])
    trained.model.load_state_dict(trainer.best["state"])
    done = f"trained epochs {first} to {trainer.epoch} in {time.perf_counter() - start:.0f} s"
    if first > trainer.epoch:
        done = f"trained to epoch {trainer.epoch} before"
    print(f"{done}; best on validation: epoch {trainer.best['epoch']}")
    splits = list(trained.rows())
    report.print_table(trained.model, trained.dataset, splits)
    trained.pictures().of_run(run, config["model"], config["seed"])
    trained.write_figures(splits)
    pictures = ", ".join(sorted(path.name for path in run.folder.glob("*.png")))
    print(f"in {run.folder}: config.json, metrics.jsonl, checkpoint.npz, figures.json, {pictures}")


@dataclasses.dataclass
class Trained:
    """A model with all that its commands need: its run, its data, where it lives."""

    run: Run
    config: dict
    dataset: datasets.Dataset
    model: object
    xp: object
    dtype: np.dtype

    def parameters(self):
        return sum(parameter.size for parameter in self.model.parameters())

    def rows(self, iw_samples=0, examples=None):
        return report.rows(self.model, self.dataset, self.config["seed"], self.xp, self.dtype,
                           iw_samples, examples)

    def pictures(self):
        return Pictures(self.model, self.dataset, self.xp, self.dtype)

    def write_figures(self, splits):
        """figures.json: the figures with what they cost, for `scratchgen compare`."""
        records = self.run.metrics()
        figures = report.as_json(self.config, self.dataset, splits)
        figures |= {"parameters": self.parameters(), "sample_ms": self.sampling_time(),
                    "seconds": records[-1]["seconds"] if records else 0.0}
        write_atomically(self.run.folder / "figures.json",
                         json.dumps(figures, indent=2).encode() + b"\n")

    def sampling_time(self, n=16):
        """Milliseconds per image, drawing n at once; None for a model that cannot sample."""
        start = time.perf_counter()
        try:
            self.model.sample(n, np.random.default_rng(0))
        except NotImplementedError:
            return None
        backend.synchronize(self.xp)
        return (time.perf_counter() - start) / n * 1000


def _build(run, config, data_dir):
    """The untrained model of a config on its data."""
    backend.get(config["backend"])  # refuses before any data are read
    dataset = catalog.load_data(config, data_dir)
    return Trained(run, config, dataset, *catalog.build(config, dataset))


def _resumed_config(run, model, chosen):
    """The run's own config; UsageError where the options given now say something else."""
    config = _checked_config(run, run.config())
    if config["model"] != model:
        raise UsageError(f"{run.folder} holds a run of {config['model']}, not of {model}")
    for name, value in _plain(chosen).items():
        if config[name] == value:
            continue
        if (name == "epochs" and value > config["epochs"]
                and config["lr_schedule"] == "constant"):
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


def _load(folder, args):
    """The trained model of a run folder, with its best parameters."""
    run = Run(folder)
    config = _checked_config(run, run.config())
    if args.backend:
        config["backend"] = args.backend
    arrays = run.load_checkpoint()
    if arrays is None:
        raise RunError(f"{run.folder} has no checkpoint yet: train it with --resume")
    trained = _build(run, config, args.data_dir)
    with _checkpoint_errors(run):
        check_format(arrays)
        trained.model.load_state_dict(part(arrays, "best/"))
    return trained


def evaluate_run(args):
    """`scratchgen evaluate RUN`."""
    trained = _load(args.run, args)
    config, dataset = trained.config, trained.dataset
    if args.iw_samples and not hasattr(trained.model, "log_weights"):
        raise UsageError(f"--iw-samples: {config['model']} has no latent distribution")
    if args.examples and not args.iw_samples:
        raise UsageError("--examples goes with --iw-samples")
    splits = trained.rows(args.iw_samples, args.examples)
    if args.json:
        print(json.dumps(report.as_json(config, dataset, splits)))
        return
    print(f"{config['model']} on {dataset.protocol}, {trained.run.folder}")
    report.print_table(trained.model, dataset, splits)


def compare_runs(args):
    """`scratchgen compare RUN...`: their figures side by side, a table per data protocol."""
    runs = [Run(folder) for folder in args.runs]
    print(report.comparison(runs))
    if args.pictures:
        protocols = {}
        for run in runs:
            figures = report.read_figures(run)
            if figures["sample_ms"] is not None:  # an autoencoder cannot sample
                trained = _load(run.folder, args)
                members = protocols.setdefault(figures["protocol"], [])
                members.append((run.folder.name, trained.pictures()))
        folder = Path(args.pictures)
        with errors_named(folder, "make"):
            folder.mkdir(parents=True, exist_ok=True)
        for members in protocols.values():
            print(*side_by_side(folder, members), sep="\n")


def sample_run(args):
    """`scratchgen sample RUN`."""
    trained = _load(args.run, args)
    path = Path(args.out) if args.out else trained.run.folder / "samples.png"
    if args.mean and not hasattr(trained.model, "decode"):
        raise UsageError(f"--mean: {trained.config['model']} has no p(x|z) to take the mean of")
    trained.pictures().samples(path, args.n, args.seed, args.mean)
    print(path)


def reconstruct_run(args):
    """`scratchgen reconstruct RUN`."""
    trained = _load(args.run, args)
    if not hasattr(trained.model, "reconstruct"):
        raise UsageError(f"{trained.config['model']} has no codes to reconstruct from: see "
                         "scratchgen complete")
    path = Path(args.out) if args.out else trained.run.folder / "reconstructions.png"
    trained.pictures().reconstructions(path, args.n)
    print(path)


def complete_run(args):
    """`scratchgen complete RUN`: hide a part of test images and draw it from the model."""
    trained = _load(args.run, args)
    if not hasattr(trained.model, "complete"):
        raise UsageError(f"{trained.config['model']} draws no part of an image given the rest")
    shape = trained.dataset.shape
    hidden = occlusion(args.occlude, shape)
    path = Path(args.out) if args.out else trained.run.folder / "completions.png"
    exact = trained.pictures().completions(path, args.n, args.seed, hidden)
    print(f"{path} ({'exact' if exact else 'approximate'} samples of the hidden pixels)")


def occlusion(name, shape):
    """What `--occlude` hides: bool (H, W), from "bottom", "right", or a .npy file of that shape."""
    height, width = shape
    hidden = np.zeros(shape, dtype=bool)
    if name == "bottom":
        hidden[height // 2:] = True
    elif name == "right":
        hidden[:, width // 2:] = True
    else:
        try:
            hidden = np.load(name, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UsageError(f"--occlude {name}: neither bottom nor right, nor a .npy file of "
                             f"{height}x{width} booleans ({error})") from error
        if hidden.shape != shape or hidden.dtype != bool:
            raise UsageError(f"--occlude {name}: {hidden.dtype} of {list(hidden.shape)}, where "
                             f"booleans of {list(shape)} are needed, True where hidden")
    return hidden


# -------------------------------------------------------------------------------- the rest


def list_datasets(args):
    """`scratchgen datasets`."""
    for row in datasets.describe(args.data_dir):
        height, width = row["shape"]
        sizes = " / ".join(f"{n:,}" for n in row["sizes"])
        state = "here" if row["present"] else "not here yet"
        colours = f"x{row['channels']}" if row["channels"] > 1 else ""
        print(f"{row['name']}: {sizes} images of {height}x{width}{colours}, "
              f"{row['levels']} levels, "
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
