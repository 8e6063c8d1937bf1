"""Words of strangers (names in files, settings in pictures), as a terminal may be shown them."""


def one_line(message: str) -> str:
    """A message without line breaks, and without characters that would command the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(message.split()))
