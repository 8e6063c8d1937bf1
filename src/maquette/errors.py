"""The one error that users see: what was wrong, where, and what to do next, in one line."""


class MaquetteError(Exception):
    """A mistake that the user can mend; the command prints its message and exits with status 2."""
