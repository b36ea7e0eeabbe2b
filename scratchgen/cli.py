"""Floor 6: the command line. Parses, calls commands.py, and turns errors into one line.

Exit codes: 0 done, 1 failed, 2 asked wrongly.
"""

import argparse
import math
import os
import sys

from scratchgen import __version__, backend, catalog, commands
from scratchgen.catalog import UsageError
from scratchgen.datasets import DataError
from scratchgen.run import RunError, RunExistsError
from scratchgen.train import TrainingError

_DEBUG = "show the traceback of an error"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that complains in one line; its usage of many options takes ten."""

    def error(self, message):
        message = " ".join(message.split())
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def main(argv=None):
    """Run one command; returns its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        return args.command(args) or 0
    except (UsageError, RunExistsError) as error:
        return _fail(error, 2, args.debug)
    except BrokenPipeError:  # whoever read our output has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (backend.BackendError, DataError, RunError, TrainingError, OSError,
            NotImplementedError, MemoryError) as error:
        return _fail(error, 1, args.debug)
    except KeyboardInterrupt:
        print("scratchgen: interrupted; a run goes on with --resume", file=sys.stderr)
        return 130


def _fail(error, code, debug):
    if debug:
        raise error
    message = " ".join(str(error).split()) or type(error).__name__
    print(f"scratchgen: error: {message}", file=sys.stderr)
    return code


def build_parser():
    """The parser of every command; an option that is not given leaves no attribute."""
    parser = Parser(
        prog="scratchgen", description="The generative models of CS231n lecture 13, from scratch.",
        epilog="example: scratchgen train vae --dataset digits --out runs/vae")
    parser.add_argument("--version", action="version", version=f"scratchgen {__version__}")
    parser.add_argument("--debug", action="store_true", help=_DEBUG)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(subparsers)

    evaluate = _add(subparsers, "evaluate", commands.evaluate_run,
                    "print a run's figures on validation and test data",
                    "scratchgen evaluate runs/vae --iw-samples 5000 --examples 1000")
    _add_run(evaluate)
    _add_place(evaluate)
    evaluate.add_argument("--iw-samples", type=_positive, default=0, metavar="K",
                          help="also the importance-weighted estimate with K samples (default: no)")
    evaluate.add_argument("--examples", type=_positive, metavar="N",
                          help="how many examples that estimate is made for (default: all)")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")

    sample = _add(subparsers, "sample", commands.sample_run, "draw images from a trained model",
                  "scratchgen sample runs/vae -n 64 --out samples.png")
    _add_run(sample)
    sample.add_argument("-n", type=_number_of_images, default=64,
                        help="how many images (default: 64)")
    sample.add_argument("--seed", type=_natural, default=0, help="what they follow from "
                        "(default: 0)")
    sample.add_argument("--mean", action="store_true",
                        help="show p(x|z)'s mean instead of a draw of every pixel")
    sample.add_argument("--out", type=_png, metavar="FILE.png",
                        help="default: samples.png in the run")
    _add_place(sample)

    reconstruct = _add(subparsers, "reconstruct", commands.reconstruct_run,
                       "show test images above what the model restores from their codes",
                       "scratchgen reconstruct runs/vae --out pairs.png")
    _add_run(reconstruct)
    reconstruct.add_argument("-n", type=_number_of_images, default=32,
                             help="how many (default: 32)")
    reconstruct.add_argument("--out", type=_png, metavar="FILE.png",
                             help="default: reconstructions.png in the run")
    _add_place(reconstruct)

    complete = _add(subparsers, "complete", commands.complete_run,
                    "hide a part of test images and let a chain-rule model draw it",
                    "scratchgen complete runs/made --occlude bottom")
    _add_run(complete)
    complete.add_argument("--occlude", default="bottom", metavar="bottom|right|FILE.npy",
                          help="what to hide: a half, or where a file of booleans (H, W) is True "
                          "(default: bottom)")
    complete.add_argument("-n", type=_number_of_images, default=16,
                          help="how many images (default: 16)")
    complete.add_argument("--seed", type=_natural, default=0, help="what the draws follow from "
                          "(default: 0)")
    complete.add_argument("--out", type=_png, metavar="FILE.png",
                          help="default: completions.png in the run")
    _add_place(complete)

    compare = _add(subparsers, "compare", commands.compare_runs,
                   "put the figures of several runs side by side, a table per data protocol",
                   "scratchgen compare runs/made runs/nade runs/vae")
    compare.add_argument("runs", metavar="RUN", nargs="+", help="folders that train left")
    compare.add_argument("--pictures", metavar="DIR", help="draw their samples and completions "
                         "side by side, two pictures per data protocol, into this folder "
                         "(default: none)")
    _add_place(compare)

    listing = _add(subparsers, "datasets", commands.list_datasets,
                   "list the data sets: what, where, licence", "scratchgen datasets")
    _add_data_dir(listing)

    check = _add(subparsers, "gradcheck", commands.check_gradients,
                 "check every gradient against finite differences",
                 "scratchgen gradcheck --only matmul")
    check.add_argument("--backend", default="numpy", choices=backend.NAMES,
                       help="where arrays live (default: numpy)")
    check.add_argument("--only", metavar="NAME", help="only rows whose name holds NAME")
    return parser


def _add(subparsers, name, command, summary, example):
    parser = subparsers.add_parser(name, help=summary, epilog=f"example: {example}",
                                   description=f"{summary[0].upper()}{summary[1:]}.")
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=_DEBUG)
    parser.set_defaults(command=command)
    return parser


def _add_train(subparsers):
    train = _add(subparsers, "train", lambda args: None, "train a model and leave a run folder",
                 "scratchgen train vae --dataset mnist --epochs 50 --out runs/mnist")
    models = train.add_subparsers(required=True, metavar="MODEL", dest="model")
    for name, entry in catalog.MODELS.items():
        parser = _add(models, name, commands.train_model, f"train {entry.summary}",
                      f"scratchgen train {name} --dataset digits --out runs/{name}")
        for option in catalog.options_of(name):
            _add_option(parser, option)
        parser.add_argument("--out", metavar="DIR", help=f"the run folder (default: runs/{name})")
        parser.add_argument("--resume", action="store_true",
                            help="continue the run in --out with the options it was started with; "
                            "start one if there is none")
        _add_data_dir(parser)


def _add_option(parser, option):
    choices = f" ({', '.join(option.choices)})" if option.choices else ""
    default = option.default
    if option.several:
        default = " ".join(str(item) for item in default)
    if option.kind is bool:
        parser.add_argument(f"--{option.name}", action="store_true", default=argparse.SUPPRESS,
                            help=option.help)
        return
    shown = "" if default is None else f" (default: {default})"
    parser.add_argument(f"--{option.name}", type=option.kind, default=argparse.SUPPRESS,
                        nargs="*" if option.several else None,
                        metavar=option.kind.__name__.upper(),
                        help=f"{option.help}{choices}{shown}".replace("%", "%%"))


def _add_run(parser):
    parser.add_argument("run", metavar="RUN", help="the folder that train left")


def _add_place(parser):
    parser.add_argument("--backend", choices=backend.NAMES,
                        help="where arrays live (default: the run's)")
    _add_data_dir(parser)


def _add_data_dir(parser):
    parser.add_argument("--data-dir", metavar="DIR", help="read data sets from this folder, one "
                        "subfolder each (default: $SCRATCHGEN_DATA, else download)")


def _positive(text):
    return _whole_number(text, 1)


def _natural(text):
    return _whole_number(text, 0)


def _number_of_images(text):
    return _whole_number(text, 1, 10_000)  # what one picture can show


def _whole_number(text, least, most=math.inf):
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, not {value}")
    if value > most:
        raise argparse.ArgumentTypeError(f"must be at most {most:,}, not {value}")
    return value


def _png(text):
    if not text.endswith(".png"):
        raise argparse.ArgumentTypeError(f"must name a .png file, not {text!r}")
    return text
