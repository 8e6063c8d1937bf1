"""Importing the package and asking for help must not wait for torch."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "numpy", "PIL", "tokenizers", "safetensors", "huggingface_hub"}


def modules_after(code: str) -> set[str]:
    """The modules that are loaded in a new interpreter when `code` has run."""
    script = f"{code}\nimport sys\nprint('\\nloaded', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("\nloaded ")[2].split())


HELP = "import maquette.cli.main as command\nassert command.run({arguments}) == 0"


@pytest.mark.parametrize(
    "code",
    [
        "import maquette\nmaquette.MaquetteError, maquette.__version__",
        HELP.format(arguments=["--help"]),
        HELP.format(arguments=["--version"]),
        HELP.format(arguments=["txt2img", "--help"]),
    ],
    ids=["import maquette", "--help", "--version", "txt2img --help"],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert modules_after(code) & HEAVY == set()


def test_the_check_sees_a_heavy_import() -> None:
    assert "numpy" in modules_after("import numpy")


def test_unknown_names_are_refused() -> None:
    import maquette

    with pytest.raises(AttributeError, match="no attribute 'close'"):
        maquette.close  # noqa: B018
