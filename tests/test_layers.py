"""The floors of the design, read from the source: imports only run downward, files and functions stay small."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import maquette

SOURCE = Path(maquette.__file__).parent

FLOORS = (
    {"diffusion", "nn", "text", "weights"},
    {"models"},
    {"families"},
    {"engine"},
    {"workflows", "training"},
    {"cli", "server", "studio"},
)
FLOOR_OF = {folder: number for number, folders in enumerate(FLOORS) for folder in folders}
BELOW_EVERYTHING = {"", "errors"}  # maquette/__init__.py and maquette/errors.py

MAX_FILE, MAX_FUNCTION = 400, 50  # lines
EMPTY_NAMES = {"utils", "util", "common", "base", "misc", "helpers"}  # they say nothing of what is inside
REFERENCES = {"diffusers", "transformers", "k_diffusion"}  # the tests compare with them; the package stands alone

# Exceptions, each with its reason. An entry that is no longer needed fails the test.
SIDEWAYS_OR_UP: dict[tuple[str, str], str] = {  # (importing module, imported folder): reason
    ("maquette.engine.model", "workflows"): "model.txt2img(...) is the workflow's public face; imported when called",
}
LONG_FILES: dict[str, str] = {}  # module: reason
LONG_FUNCTIONS: dict[str, str] = {  # module.function: reason
    "maquette.engine.open.open": "forty lines name and explain what can be asked for",
}

Found = Iterator[tuple[str | tuple[str, str], str]]  # what an exception would be called, and the complaint


def modules(root: Path) -> dict[str, ast.Module]:
    """Every module below the package folder `root`, by its dotted name."""
    found = {}
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(file.read_text("utf-8"))
    return found


def imports(name: str, tree: ast.AST) -> Iterator[str]:
    """The dotted names that a module imports anywhere in it, inside functions and for types alone too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: relative import; write it in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def folder(module: str) -> str:
    """The folder of a module of the package: "engine" for `maquette.engine.open`, "" for `maquette`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in {*FLOOR_OF, *BELOW_EVERYTHING} else ""


def upward_imports(trees: dict[str, ast.Module]) -> Found:
    for name, tree in trees.items():
        if folder(name) in BELOW_EVERYTHING:
            continue
        for target in dict.fromkeys(folder(t) for t in imports(name, tree) if t.split(".")[0] == "maquette"):
            if target in BELOW_EVERYTHING | {folder(name)}:
                continue
            if FLOOR_OF[target] >= FLOOR_OF[folder(name)]:
                yield (name, target), f"{name} imports maquette.{target}, which is not below it"


def foreign_imports(trees: dict[str, ast.Module]) -> Found:
    for name, tree in trees.items():
        for target in imports(name, tree):
            if target.split(".")[0] in REFERENCES:
                yield name, f"{name} imports {target}; references are for tests"


def long_files(root: Path) -> Found:
    for file in sorted(root.rglob("*.py")):
        lines = len(file.read_text("utf-8").splitlines())
        if lines > MAX_FILE:
            name = ".".join(file.relative_to(root.parent).with_suffix("").parts)
            yield name, f"{name} has {lines} lines, more than {MAX_FILE}"


def long_functions(trees: dict[str, ast.Module]) -> Found:
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION:
                    yield f"{name}.{node.name}", f"{name}.{node.name} has {lines} lines, more than {MAX_FUNCTION}"


def empty_names(trees: dict[str, ast.Module]) -> Found:
    for name in trees:
        if EMPTY_NAMES & set(name.split(".")):
            yield name, f"{name}: the name says nothing of what is inside"


def unknown_folders(trees: dict[str, ast.Module]) -> Found:
    for name in trees:
        parts = name.split(".")
        if len(parts) > 1 and parts[1] not in {*FLOOR_OF, "errors", "__main__"}:
            yield name, f"{name} stands on no floor; add its folder to FLOORS"


def cycles(trees: dict[str, ast.Module]) -> Found:
    """Modules that import one another when loaded; imports inside functions and for types do not load anything."""
    graph = {
        name: {target for path in loaded(name, tree) for target in (path, path.rpartition(".")[0]) if target in trees}
        - {name, "maquette"}
        for name, tree in trees.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield "cycle", "imports in a circle: " + " -> ".join(error.args[1])


def loaded(name: str, tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(name, node)


def complaints(found: Found, exceptions: dict[str, str] | dict[tuple[str, str], str]) -> list[str]:
    """What was found and is not excepted, and every exception that nothing needs."""
    found_by_key = dict(found)
    unneeded = [f"{key}: exception not needed any more" for key in exceptions if key not in found_by_key]
    return [text for key, text in found_by_key.items() if key not in exceptions] + unneeded


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return modules(SOURCE)


def test_imports_only_run_downward(trees: dict[str, ast.Module]) -> None:
    assert complaints(upward_imports(trees), SIDEWAYS_OR_UP) == []


def test_every_module_stands_on_a_floor(trees: dict[str, ast.Module]) -> None:
    assert complaints(unknown_folders(trees), {}) == []


def test_no_imports_in_a_circle(trees: dict[str, ast.Module]) -> None:
    assert complaints(cycles(trees), {}) == []


def test_references_are_not_imported(trees: dict[str, ast.Module]) -> None:
    assert complaints(foreign_imports(trees), {}) == []


def test_files_are_short() -> None:
    assert complaints(long_files(SOURCE), LONG_FILES) == []


def test_functions_are_short(trees: dict[str, ast.Module]) -> None:
    assert complaints(long_functions(trees), LONG_FUNCTIONS) == []


def test_names_say_something(trees: dict[str, ast.Module]) -> None:
    assert complaints(empty_names(trees), {}) == []


def test_root_imports_only_errors_when_loaded(trees: dict[str, ast.Module]) -> None:
    inner = [path for path in loaded("maquette", trees["maquette"]) if path.startswith("maquette")]
    assert inner == ["maquette.errors.MaquetteError"]
    assert [path for path in imports("errors", trees["maquette.errors"]) if path.startswith("maquette")] == []


def bad_tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_checks_can_fail(tmp_path: Path) -> None:
    body = "\n".join(f"    x = {i}" for i in range(60))
    root = bad_tree(
        tmp_path / "maquette",
        {
            "__init__.py": "",
            "engine/model.py": "from maquette.models import unet\ndef f():\n    from maquette.cli.main import main\n",
            "models/unet.py": "import diffusers.models\nimport maquette.models.vae\n",
            "models/vae.py": f"from maquette.models.unet import x\ndef long():\n{body}\n",
            "nn/utils.py": "from maquette.text import chunks\n",
            "text/chunks.py": "\n" * 500,
            "elsewhere/x.py": "",
        },
    )
    trees = modules(root)
    assert dict(upward_imports(trees)) == {
        ("maquette.engine.model", "cli"): "maquette.engine.model imports maquette.cli, which is not below it",
        ("maquette.nn.utils", "text"): "maquette.nn.utils imports maquette.text, which is not below it",
    }
    assert [name for name, _ in foreign_imports(trees)] == ["maquette.models.unet"]
    assert [name for name, _ in long_files(root)] == ["maquette.text.chunks"]
    assert [name for name, _ in long_functions(trees)] == ["maquette.models.vae.long"]
    assert [name for name, _ in empty_names(trees)] == ["maquette.nn.utils"]
    assert [name for name, _ in unknown_folders(trees)] == ["maquette.elsewhere.x"]
    assert [name for name, _ in cycles(trees)] == ["cycle"]
    assert complaints(empty_names(trees), {"gone": "why", "maquette.nn.utils": "why"}) == [
        "gone: exception not needed any more"
    ]
