"""Benchmarks: `python -m benchmarks --help`. One file each; runner.py says how they are run."""
