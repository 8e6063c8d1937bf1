"""Names that somebody mistyped."""

import difflib
from collections.abc import Collection

LIKE = 0.6  # the share of letters that a mistyped name has in common with the one that was meant


def nearest(name: str, known: Collection[str]) -> str:
    """The names in `known` most like `name`, as the end of an error message; all of them where none is like it."""
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=LIKE)
    return f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(sorted(known))}"
