"""Floor 3: data sets. Images stay on the host as NumPy arrays of the publisher's integers."""

from scratchgen.datasets.core import ENCODINGS, DataError, Dataset, Split, with_encoding
from scratchgen.datasets.idx import read_idx
from scratchgen.datasets.sources import describe, load

__all__ = ["ENCODINGS", "DataError", "Dataset", "Split", "describe", "load", "read_idx",
           "with_encoding"]
