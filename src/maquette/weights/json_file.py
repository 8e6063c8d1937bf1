"""JSON files beside weights, read no farther than such files are long: they may be a stranger's."""

import json
from pathlib import Path
from typing import Any

from maquette.errors import MaquetteError
from maquette.weights.mapped_file import bad_file

CONFIG, TOKENIZER = 4 << 20, 64 << 20  # bytes; published ones have up to 50 kB, and 35 MB


def read_text(path: Path, most: int = CONFIG) -> bytes:
    """The content of a file of at most `most` bytes.

    Raises:
        MaquetteError: the file is longer.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        text = file.read(most + 1)
    if len(text) > most:
        raise too_long(path, most)
    return text


def too_long(path: Path, most: int) -> MaquetteError:
    """The complaint about a file of more than `most` bytes."""
    return bad_file(path, f"is longer than the {most >> 20} MiB that such a file may have", "use another one")


def read_json(path: Path, most: int = CONFIG) -> dict[str, Any]:
    """A JSON object from a file of at most `most` bytes.

    Raises:
        MaquetteError: the file is missing, damaged or longer, or holds something else.
    """
    try:
        value = json.loads(read_text(path, most).decode("utf-8"))
    except FileNotFoundError:
        raise bad_file(path, "is missing", "the model's folder is incomplete, download it again") from None
    except OSError as error:
        raise bad_file(path, f"cannot be read ({error.strerror})", "check its permissions") from None
    except (ValueError, RecursionError) as error:
        raise bad_file(path, f"is not readable JSON ({error})") from None
    if not isinstance(value, dict):
        raise bad_file(path, "holds no JSON object")
    return value
