"""The data sets by name: whose they are, where they come from, and `load`."""

import contextlib
import dataclasses
from pathlib import Path

from scratchgen.datasets import layouts
from scratchgen.datasets.core import DataError, Dataset, check_encoding, with_encoding
from scratchgen.datasets.files import cache_folder, check, check_contents, data_folder, fetch
from scratchgen.datasets.layouts import Layout, Source

DIGITS = Source(
    name="digits", shape=(8, 8), levels=17, sizes=(1000, 350, 447), encoding="threshold",
    licence="CC BY 4.0",
    credit="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine "
           "Learning Repository, 1998, doi:10.24432/C50P49; as carried by scikit-learn",
    embedded=True,
    layouts=(Layout({
        "digits.npz": "af104d81e7cd419be5f343d23c6ca2e4e4ff847b06636260802df8e903c6183f",
    }, layouts.digits),),
)

COLOURED = dataclasses.replace(
    DIGITS, name="coloured-digits", channels=3, ink=False,
    credit=DIGITS.credit + "; coloured at random by scratchgen",
    layouts=(dataclasses.replace(DIGITS.layouts[0], read=layouts.coloured_digits),),
)

MNIST = Source(
    name="mnist", shape=(28, 28), levels=256, sizes=(50000, 10000, 10000), encoding="dynamic",
    licence="CC BY-SA 3.0, as commonly stated",
    credit="Y. LeCun, C. Cortes and C. J. C. Burges, The MNIST database of handwritten digits",
    layouts=(Layout({
        "train-images-idx3-ubyte.gz":
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz":
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz":
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz":
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    }, layouts.mnist, mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    )),),
)

FASHION = Source(
    name="fashion-mnist", shape=(28, 28), levels=256, sizes=(50000, 10000, 10000),
    encoding="dynamic", licence="MIT",
    credit="H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST, Zalando Research, 2017, "
           "arXiv:1708.07747",
    # The SHA-256 of the files whose MD5 Zalando publishes, as many public projects list both.
    layouts=(Layout({
        "train-images-idx3-ubyte.gz":
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz":
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz":
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz":
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    }, layouts.mnist, mirrors=(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    )),),
)

BINARIZED = Source(
    name="binarized-mnist", shape=(28, 28), levels=2, sizes=(50000, 10000, 10000),
    encoding="static", licence="none stated; made from MNIST",
    credit="R. Salakhutdinov and I. Murray, ICML 2008; published by H. Larochelle",
    contents=("43490d4d6ac9002727af4426d8748609fdb7e4094fa65ad8d681ea60082a7a5a",
              "069b4f0beb389b776478c3e872b4df71c95ac4be64d7cbe6d32e24ebac8e6d5e",
              "ca0294c3b8d984c7a1dc891015a8eea6f37bae59a34e35ea0fc8c47110a8dd86"),
    layouts=(Layout({layouts.PACKED: None}, layouts.packed), Layout({
        "binarized_mnist_train.amat":
            "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
        "binarized_mnist_valid.amat":
            "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
        "binarized_mnist_test.amat":
            "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
    }, layouts.text, pack=layouts.pack_text, mirrors=(
        "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
        "https://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
    ))),
)

FREY = Source(
    name="frey-face", shape=(28, 20), levels=256, sizes=(1600, 200, 165), encoding="dequantized",
    ink=False,
    licence="none stated; offered for research",
    credit="B. Frey; placed on S. Roweis's data page, cs.nyu.edu/~roweis/data.html",
    contents=("f8cc2e93f7be647defec43ac58da90de21e0ed37999af956ea784454f62e3546",
              "87c819d175723d18669dc87fd49737ca506a0a5656052d21b5c4a2bc2c7a2338",
              "95ea81349464f94757f9f5272ec8f66dffb8ae24ec0ade258a90a2d72c8cc225"),
    layouts=(Layout({"frey_rawface.npz": None}, layouts.frey), Layout({
        "frey_rawface.mat": "265a83a23adb081755cd3de375509828e690324d1d60f076b8ecebc840d59c64",
    }, layouts.frey, mirrors=(
        "https://cs.nyu.edu/~roweis/data/",
        "http://www.cs.nyu.edu/~roweis/data/",
    ))),
)

REGISTRY = {source.name: source for source in (DIGITS, COLOURED, MNIST, FASHION, BINARIZED, FREY)}


def load(name, data_dir=None, encoding=None, seed=0, *, registry=REGISTRY, cache=None):
    """The data set called `name`, as a Dataset.

    data_dir: a folder to read from instead of the network (SCRATCHGEN_DATA says the same);
    encoding: one of ENCODINGS, the data set's own where None; seed: what `fixed` draws from;
    cache: where downloads stay, the user's cache where None.
    """
    if name not in registry:
        raise DataError(f"unknown data set {name!r}: choose one of {', '.join(registry)}")
    source = registry[name]
    encoding = encoding or source.encoding
    check_encoding(encoding, name, source.levels == 2)
    named = None if source.embedded else data_folder(data_dir)
    downloaded = named is None and not source.embedded
    try:
        if downloaded:
            layout, paths = _fetched(source, Path(cache or cache_folder()) / name)
        else:
            layout, paths = _found(source, _folder(source, named))
        splits = layout.read(source, paths)
        # After reading, because "cut short" says more than "wrong checksum".
        _verify(source, layout, paths, splits)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}: the data set {name} cannot be read "
                        "from there") from None
    if downloaded and layout.pack:
        with contextlib.suppress(OSError):  # no room: the files as downloaded serve as well
            layout.pack(source, paths, splits)
    raw = "static" if source.levels == 2 else "levels"
    dataset = Dataset(name, source.shape, source.levels, *splits, source.licence, raw,
                      ink=source.ink, channels=source.channels)
    return with_encoding(dataset, encoding, seed)


def describe(data_dir=None, *, registry=REGISTRY, cache=None):
    """What there is: a list of dicts, with the folder of each data set and if its files are there.

    Keys: name, shape, channels, levels, sizes (train, valid, test), encoding (the default one),
    licence, credit, where, present.
    """
    named = data_folder(data_dir)
    rows = []
    for source in registry.values():
        folder = _folder(source, named or cache or cache_folder())
        rows.append({
            "name": source.name, "shape": source.shape, "channels": source.channels,
            "levels": source.levels, "sizes": source.sizes, "encoding": source.encoding,
            "licence": source.licence, "credit": source.credit, "where": str(folder),
            "present": any(_complete(layout, folder) for layout in source.layouts),
        })
    return rows


def _folder(source, parent):
    return Path(__file__).parent if source.embedded else Path(parent) / source.name


def _complete(layout, folder):
    return all((folder / name).exists() for name in layout.files)


def _found(source, folder):
    """The layout whose files lie in `folder`, and their paths; nothing is downloaded."""
    started = [layout for layout in source.layouts
               if any((folder / name).exists() for name in layout.files)]
    layout = started[0] if started else source.layouts[0]
    paths = [folder / name for name in layout.files]
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} is missing: put the published file there, or name no data "
                            "folder (--data-dir, SCRATCHGEN_DATA) to have it downloaded")
    return layout, paths


def _fetched(source, folder):
    """A layout that the cache `folder` holds, or else the last one, downloaded; and its paths."""
    *others, layout = source.layouts
    for other in others:
        if _complete(other, folder):
            return other, [folder / name for name in other.files]
    return layout, [fetch(name, sha256, layout.mirrors, folder)
                    for name, sha256 in layout.files.items()]


def _verify(source, layout, paths, splits):
    for path, sha256 in zip(paths, layout.files.values(), strict=True):
        if sha256:
            check(path, sha256)
    if source.contents:
        for name, split, sha256 in zip(layouts.SPLITS, splits, source.contents, strict=True):
            check_contents(paths[0], name, split.images, sha256)
