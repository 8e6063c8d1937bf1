"""Where on the disk is what a user names."""

from importlib.resources import files
from pathlib import Path

ASSETS = Path(str(files("maquette"))) / "assets"  # what the package brings along


def expanded(name: str | Path) -> Path:
    """The path of a name; a ~ at its beginning is the home folder, where there is one."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # nobody has such a home
        return Path(name)


def existing(name: str | Path) -> Path | None:
    """The path of a file or folder that is there; None if there is none, as of what no path can be called."""
    path = expanded(name)
    try:
        return path if path.exists() else None
    except (OSError, ValueError):  # too long, or with characters that no path has
        return None


Look = tuple[int, int, int]
"""What tells one file from another that takes its place: its number, when it was changed, its size."""


def look(path: Path) -> Look | None:
    """Which file is there; None if there is none."""
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_ino, seen.st_mtime_ns, seen.st_size
