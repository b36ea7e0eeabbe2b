"""The house keeps its floors: who imports whom, who names cupy, how long a room may be."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "scratchgen"
FILES = sorted(PACKAGE.rglob("*.py"))

# A file imports from lower floors, or from its own without a cycle.
FLOORS = {
    "__init__": 2,
    "backend": 0,
    "tensor": 1, "operators": 1,
    "ops": 2, "conv": 2, "check": 2,
    "distributions": 3, "optim": 3, "nn": 3, "datasets": 3,
    "models": 4,
    "run": 5, "train": 5, "evaluate": 5, "plots": 5, "pictures": 5, "report": 5, "baselines": 5,
    "catalog": 5, "progress": 5,
    "gradcheck": 6, "gradcheck_ops": 6, "gradcheck_reparameterisation": 6,
    "commands": 6, "cli": 6, "__main__": 6,
}
RUNTIME_PACKAGES = {"numpy", "matplotlib", "tqdm", "pooch", "requests"}
LONGEST_ROOM = 400


def module_name(path):
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def floor(module):
    return FLOORS[module.split(".")[1]]


def imports(path):
    """The modules that a file imports, as dotted names, wherever in the file."""
    modules = {module_name(file) for file in FILES}
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in modules else node.module)
    return found


def own(names):
    return {name for name in names if name.split(".")[0] == "scratchgen" and "." in name}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_file_imports_only_from_its_floor_or_below(path):
    here = module_name(path)
    for name in own(imports(path)):
        assert floor(name) <= floor(here), f"{here} (floor {floor(here)}) imports {name}"


def test_there_is_no_import_cycle():
    graph = {module_name(path): own(imports(path)) for path in FILES}
    done = set()

    def visit(name, trail):
        assert name not in trail, " -> ".join([*trail, name])
        if name in done:
            return
        for other in graph.get(name, ()):
            visit(other, [*trail, name])
        done.add(name)
    for name in graph:
        visit(name, [])


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_only_known_packages_are_imported(path):
    outside = {name.split(".")[0] for name in imports(path)} - {"scratchgen"}
    from sys import stdlib_module_names
    unknown = outside - set(stdlib_module_names) - RUNTIME_PACKAGES
    assert unknown <= ({"cupy"} if path.name == "backend.py" else set())
    assert "pickle" not in outside


def test_cupy_is_named_in_one_file_only():
    # Messages, options and comments may say the word; code that uses it may not.
    uses = re.compile(r"^\s*(import|from)\s+cupy|\bcupy\s*\.", re.MULTILINE)
    using = [path.name for path in FILES if uses.search(path.read_text())]
    assert using == ["backend.py"]


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_no_room_is_too_long(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= LONGEST_ROOM, f"{len(lines)} lines: is it still one idea?"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_every_file_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_the_engine_can_be_read_in_an_evening():
    lines = [line for path in FILES if path.parent == PACKAGE and path.stem != "__init__"
             and floor(module_name(path)) <= 2 for line in path.read_text().splitlines()]
    assert len([line for line in lines if line.strip()]) <= 1000


def test_global_random_state_is_never_used():
    seeded = re.compile(r"np\.random\.(seed|rand|randn|random|normal|uniform|choice)\b")
    assert not [path.name for path in FILES if seeded.search(path.read_text())]
