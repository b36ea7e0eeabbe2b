"""What a run of the benchmarks says: a header and tables, a JSON object, a plot.

All times are medians with the interquartile range. A ratio is given twice, as the ratio of the
medians and as the median of each round's ratio: where the two differ much, the machine was busy
with something else and the figures are worth little.
"""

import os
import platform
import sys
from importlib import metadata

import numpy as np
from matplotlib.figure import Figure

from benchmarks.runner import MATRIX
from scratchgen import __version__, backend

PACKAGES = ("numpy", "cupy-cuda12x", "cupy-cuda13x", "torch", "autograd")
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


def environment():
    """Versions, processors and thread counts of this machine, as a dict."""
    versions = {"python": platform.python_version(), "scratchgen": __version__}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {"command": " ".join(["python -m benchmarks", *sys.argv[1:]]), "versions": versions,
            "cpu": _cpu(), "cpus": os.cpu_count(), "gpu": _gpu(),
            "threads": {name: os.environ.get(name, "not set") for name in THREAD_VARIABLES}}


def _cpu():
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or "unknown"


def _gpu():
    try:
        xp = backend.get("cupy")
    except backend.BackendError:
        return "none"
    return xp.cuda.runtime.getDeviceProperties(0)["name"].decode()


def header(environment):
    """The environment as lines of text."""
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    threads = ", ".join(f"{name}={count}" for name, count in environment["threads"].items())
    return (f"{versions}\nCPU: {environment['cpu']}, {environment['cpus']} seen; "
            f"GPU: {environment['gpu']}\nthreads: {threads}")


def summary(name, title, results, calibration, tiny):
    """One benchmark's measurements as a dict of plain numbers, in seconds."""
    return {"name": name, "title": title, "repeats": len(calibration), "tiny": tiny,
            "contenders": [_contender(result) for result in results],
            "calibration": {"what": f"{MATRIX}x{MATRIX} float32 matrix product, NumPy",
                            **_times(calibration)}}


def _contender(result):
    contender = result.contender
    entry = {"name": contender.name, "backend": contender.backend,
             "reference": contender.reference, "status": result.missing or "measured"}
    if not result.missing:
        entry |= _times(result.times)
        entry |= {"ratio": result.ratio, "paired_ratio": result.paired_ratio,
                  "ours_ratio": result.ours_ratio, "goal": contender.goal}
    return entry


def _times(times):
    lower, median, upper = np.percentile(times, [25, 50, 75]).tolist()
    return {"median": median, "quartiles": [lower, upper], "times": times.tolist()}


COLUMNS = ("", "median ms", "quartiles ms", "/ reference", "paired", "scratchgen / this", "goal")


def table(summary):
    """One benchmark's summary as lines of text."""
    rows = [COLUMNS]
    notes = []
    for entry in summary["contenders"]:
        if entry["status"] == "measured":
            rows.append(_row(entry, summary["tiny"]))
        else:
            notes.append(f"  {entry['name']}: {entry['status']}")
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = [f"{summary['name']}: {summary['title']} ({summary['repeats']} repeats)"]
    for row in rows:
        cells = [row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:])]
        lines.append("  " + "  ".join(cells).rstrip())
    calibration = summary["calibration"]
    speed = 2 * MATRIX ** 3 / calibration["median"] / 1e9
    lines.append(f"  beside it: {calibration['what']}: {_milliseconds(calibration['median'])} ms "
                 f"({_range(calibration)}), {speed:.0f} GFLOP/s")
    return "\n".join(lines + notes)


def _row(entry, tiny):
    goal = ""
    if entry["goal"] is not None and entry["ours_ratio"] is not None and not tiny:
        verdict = "met" if entry["ours_ratio"] <= entry["goal"] else "missed"
        goal = f"{entry['goal']:.2f} {verdict}"
    name = f"{entry['name']} (reference)" if entry["reference"] else entry["name"]
    return (name, _milliseconds(entry["median"]), _range(entry), _ratio(entry["ratio"]),
            _ratio(entry["paired_ratio"]), _ratio(entry["ours_ratio"]), goal)


def _range(entry):
    return " .. ".join(_milliseconds(quartile) for quartile in entry["quartiles"])


def _milliseconds(seconds):
    return f"{1e3 * seconds:.3g}"


def _ratio(ratio):
    return "-" if ratio is None else f"{ratio:.2f}"


def plot(summaries, path):
    """Bars of the median times with their quartiles, one panel per benchmark."""
    figure = Figure(figsize=(7, 2.2 * len(summaries)), layout="constrained")
    for panel, summary in zip(np.ravel(figure.subplots(len(summaries), 1)), summaries):
        measured = [c for c in summary["contenders"] if c["status"] == "measured"]
        medians = 1e3 * np.array([c["median"] for c in measured])
        quartiles = 1e3 * np.array([c["quartiles"] for c in measured]).T
        bars = panel.barh([c["name"] for c in measured], medians, xerr=abs(quartiles - medians))
        panel.bar_label(bars, [f"{median:.3g}" for median in medians], padding=4)
        panel.margins(x=0.15)
        panel.invert_yaxis()
        panel.set_title(summary["name"], loc="left")
        panel.set_xlabel("ms, median and quartiles")
    figure.savefig(path)
