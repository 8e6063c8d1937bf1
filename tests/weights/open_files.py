"""Opens and reads every file of a folder and reports on each, as JSON: `python open_files.py FOLDER MEGABYTES`.

While a file is open the process may not have more than its size and MEGABYTES of memory more than at the start.
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch

from maquette.errors import MaquetteError
from maquette.weights.open_file import open_weights
from maquette.weights.precision import cast


def memory() -> int:
    """Address space in use, in bytes: what the limit counts."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def outcome(path: Path) -> tuple[str, str]:
    """What opening and reading gave: "fine", or the error's name and message."""
    try:
        view = cast(open_weights(path), torch.float32)
        for name in view:
            assert view[name].shape == view.shape(name)
            view[name].isfinite().all()
    except MaquetteError as error:
        return "MaquetteError", str(error)
    except BaseException as error:
        return type(error).__name__, repr(error)[:300]
    return "fine", ""


def main(folder: Path, megabytes: int) -> None:
    good = folder / "good.safetensors"
    assert outcome(good) == ("fine", "")  # and whatever is imported late is there now
    start = memory()
    reports = []
    for path in sorted(set(folder.iterdir()) - {good}):
        size = path.lstat().st_size if not path.is_dir() else 0
        resource.setrlimit(resource.RLIMIT_AS, (start + size + (megabytes << 20), resource.RLIM_INFINITY))
        before = time.process_time()
        kind, message = outcome(path)
        reports.append({"path": str(path), "kind": kind, "message": message, "seconds": time.process_time() - before})
    json.dump(reports, sys.stdout)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]))
