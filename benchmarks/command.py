"""The command line of the benchmarks."""

import argparse
import json
import sys
from pathlib import Path

from benchmarks import engine, imports, lstm, pixelcnn, pixelrnn, report, sampling, vae
from benchmarks.runner import REST, Disagreement, run
from scratchgen import backend

BENCHMARKS = {"engine": engine, "vae": vae, "pixelcnn": pixelcnn, "sampling": sampling,
              "lstm": lstm, **pixelrnn.BENCHMARKS, "import": imports}
TINY_REPEATS = 1


def main(argv=None):
    """Run the benchmarks asked for; returns the exit code (2: asked wrongly, 1: failed)."""
    args = parser().parse_args(argv)
    unknown = [name for name in args.names if name not in BENCHMARKS]
    if unknown:
        return _fail(f"unknown benchmark {unknown[0]!r}: choose from {', '.join(BENCHMARKS)}", 2)
    try:
        measure(args)
    except (backend.BackendError, Disagreement, OSError) as error:
        return _fail(error, 1)
    return 0


def parser():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Time scratchgen beside its peers, taking turns, and report the ratios.",
        epilog="example: python -m benchmarks vae --json vae.json")
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help=f"what to run: {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--backend", choices=backend.NAMES,
                        help="only contenders on this backend (default: all that there are)")
    parser.add_argument("--repeats", type=_positive, metavar="N",
                        help="rounds (default: what suits each benchmark)")
    parser.add_argument("--tiny", action="store_true",
                        help="tiny sizes, one round: tests that everything runs, times nothing")
    parser.add_argument("--json", metavar="FILE", type=_writable, help="write all figures there")
    parser.add_argument("--plot", metavar="FILE.png", type=_writable, help="draw the medians")
    return parser


def measure(args):
    """Run, print a table after each benchmark, write the files at the end."""
    if args.backend:
        backend.get(args.backend)
    environment = report.environment()
    print(report.header(environment))
    if args.tiny:
        print("tiny sizes: this shows that the benchmarks run, the figures mean nothing")
    summaries = []
    for name in args.names or BENCHMARKS:
        benchmark = BENCHMARKS[name]
        contenders = [contender for contender in benchmark.contenders(args.tiny)
                      if args.backend in (None, contender.backend)]
        repeats = args.repeats or (TINY_REPEATS if args.tiny else benchmark.REPEATS)
        results, calibration = run(contenders, repeats, rest=0 if args.tiny else REST)
        title = benchmark.__doc__.splitlines()[0].rstrip(".")
        summaries.append(report.summary(name, title, results, calibration, args.tiny))
        print(f"\n{report.table(summaries[-1])}", flush=True)
    if args.json:
        everything = {"environment": environment, "benchmarks": summaries}
        Path(args.json).write_text(json.dumps(everything, indent=1) + "\n")
    if args.plot:
        report.plot(summaries, args.plot)


def _fail(message, code):
    print(f"benchmarks: error: {' '.join(str(message).split())}", file=sys.stderr)
    return code


def _positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return int(text)


def _writable(text):
    if not Path(text).parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {Path(text).parent}")
    return text
