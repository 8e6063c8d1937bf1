"""Lets the tests of this folder import `killing`, `oracle` and `tiny`; and a whole small run that several look at."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def drawable() -> None:
    """Skips where the font or the names of emoji are not installed."""
    from maquette.errors import MaquetteError
    from maquette.training import emoji

    try:
        emoji.catalogue()
    except MaquetteError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def known_emoji(drawable: None) -> None:
    """Skips where they are of another version than the shipped judge and the palette know."""
    from maquette.errors import MaquetteError
    from maquette.training.judge import load_judge
    from maquette.training.palette import palette

    try:
        load_judge()
        palette().by_index  # noqa: B018
    except MaquetteError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def trained(drawable: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny recipe, trained without a break; nobody may change it."""
    from tiny import silent, write_recipe

    from maquette.training.run import train

    folder = tmp_path_factory.mktemp("trained")
    return train(write_recipe(folder / "tiny.toml", precision="bfloat16"), folder=folder / "run", console=silent())
