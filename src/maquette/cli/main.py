"""The command `maquette`: its subcommands, and how every error becomes one line.

Nothing heavy is imported here, so that `maquette --help` answers at once; each command imports what it needs when run.
"""

import errno
import gc
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import Annotated, TextIO

import typer

from maquette import __version__
from maquette.cli import convert, doctor, evaluate, grid, inspect, paint, reproduce, semantic_map, train, upscale
from maquette.cli.plain import one_line
from maquette.errors import MaquetteError

USER_ERROR = 2  # exit status of a mistake that the user can mend
UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)  # of what is written to an open file
INTERRUPTED = 130  # 128 + SIGINT, as shells expect

app = typer.Typer(
    name="maquette",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (paint.txt2img, paint.img2img, paint.inpaint, paint.outpaint, paint.detail):
    app.command(command.__name__)(command)
app.command("map")(semantic_map.semantic_map)
app.command("upscale")(upscale.upscale)
app.command("reproduce")(reproduce.reproduce)
app.command("grid")(grid.grid)
app.command("inspect")(inspect.inspect)
app.command("convert")(convert.convert)
app.command("doctor")(doctor.doctor)
app.command("train")(train.train)
app.command("export")(train.export)
app.command("eval")(evaluate.evaluate)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"maquette {__version__}")
        raise typer.Exit


@app.callback()
def _maquette(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Stable Diffusion, complete: words to a picture, offline."""


def main() -> None:
    """Run the command line and exit: 0, 2 after a mistake of the user's, 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a name is no reason to fail
    warnings.showwarning = _warn
    status = run(sys.argv[1:])
    gc.freeze()  # all goes now: to search torch's modules for garbage first would take as long as a small command
    sys.exit(status)


def run(arguments: Sequence[str]) -> int:
    """Run the command line; its exit status."""
    try:
        return app(args=list(arguments) or ["--help"], prog_name="maquette", standalone_mode=False) or 0
    except MaquetteError as error:
        return _complain(str(error))
    except typer.TyperException as error:  # an unknown option, a number that is none
        return _complain(f"{error.format_message().rstrip('.')}; see 'maquette --help'")
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except OSError as error:
        if error.filename is not None or error.errno not in UNWRITTEN:
            raise
        _let_go(sys.stdout)
        return _complain(f"the output cannot be written ({error.strerror}); free some space or send it elsewhere")


def _let_go(stream: TextIO) -> None:
    """Send the rest of a stream nowhere: Python would try to write it, and fail, at its end."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _warn(message: Warning | str, *where: object, **further: object) -> None:
    """Say what is not as it was asked for in one line; where in the code that is, tells no user anything."""
    typer.echo(f"maquette: {one_line(str(message))}", err=True)


def _complain(message: str) -> int:
    """Say what was wrong in one line, after the traceback if MAQUETTE_DEBUG is 1."""
    if os.environ.get("MAQUETTE_DEBUG") == "1":
        traceback.print_exc()
    typer.echo(f"maquette: {one_line(message)}", err=True)
    return USER_ERROR
