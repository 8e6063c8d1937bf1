"""A pickle read as data: an interpreter of the opcodes that torch.save writes, which imports and calls nothing.

A pickle is a program for a small stack machine; two of its instructions fetch any Python object by name and call it,
which is how a checkpoint becomes an attack. Here names are looked up in a table of our own functions alone. Any other
name stands for an inert object that swallows its arguments; names from the standard library that no checkpoint needs
end the reading, so that the user hears of them. Instructions, nesting, strings and integers are bounded.
"""

import mmap
import pickletools
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from maquette.weights.mapped_file import bad_file, quoted
from maquette.weights.pickle_names import Function, Inert, Known, Refused, hashable, is_dangerous

MAX_OPERATIONS = 800_000  # a checkpoint spends about 40 on a tensor
MAX_LENGTH = 32 << 20
MAX_STRING = 64 << 10  # longer ones (embedded configurations) are forgotten
MAX_INTEGER = 16  # bytes
MAX_DEPTH = 100

_OPCODE_NAMES = {opcode.code: opcode.name for opcode in pickletools.opcodes}


class PickleReader:
    """Reads one pickle from `data`, starting at byte `position`, which afterwards is the byte after its end.

    `names` maps "module.name" to what it stands for; `persistent` resolves torch's persistent ids (the storages).

    Raises:
        MaquetteError: the pickle is damaged, dangerous, or larger than any checkpoint's.
    """

    def __init__(
        self,
        path: Path,
        data: bytes | mmap.mmap,
        names: Mapping[str, object],
        persistent: Function,
        position: int = 0,
        limit: int = MAX_OPERATIONS,
    ) -> None:
        self.path = path
        self.position = position
        self._data = data
        self._end = min(len(data), position + MAX_LENGTH)
        self._limit = limit
        self._names = names
        self._persistent = persistent
        self._stack: list[object] = []
        self._marked: list[list[object]] = []  # the stacks below each MARK
        self._memo: dict[int, object] = {}

    def read(self) -> object:
        for _ in range(self._limit):
            code = self._take(1)
            if code == b".":
                result = self._pop()
                self._check_depth(result)
                return result
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise self._error(f"uses the pickle instruction {_name_of(code)}, which checkpoints do not need")
            operation(self)
        raise self._error(f"its pickle has more than {self._limit} instructions")

    def _error(self, reason: str) -> Exception:
        return bad_file(self.path, reason, "do not trust it; ask for a safetensors file")

    # The input.

    def _take(self, count: int) -> bytes:
        start, self.position = self.position, self.position + count
        if self.position > self._end:
            raise self._error("its pickle is cut short, or longer than any checkpoint's")
        return self._data[start : self.position]

    def _number(self, layout: str) -> int:
        number: int = struct.unpack(layout, self._take(struct.calcsize(layout)))[0]
        return number

    def _line(self) -> str:
        end = self._data.find(b"\n", self.position, min(self._end, self.position + 1000))
        if end < 0:
            raise self._error("its pickle has a name without end")
        line = self._take(end - self.position)
        self._take(1)
        return self._text(line)

    def _text(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return raw.decode("latin-1")  # strings of Python 2

    # The stack.

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _pop(self) -> object:
        if not self._stack:
            raise self._error("its pickle takes more from the stack than is there")
        return self._stack.pop()

    def _top(self) -> object:
        if not self._stack:
            raise self._error("its pickle takes more from the stack than is there")
        return self._stack[-1]

    def _pop_to_mark(self) -> list[object]:
        if not self._marked:
            raise self._error("its pickle lacks a mark")
        items, self._stack = self._stack, self._marked.pop()
        return items

    # The instructions.

    def mark(self) -> None:
        if len(self._marked) >= MAX_DEPTH:
            raise self._error(f"its pickle nests more than {MAX_DEPTH} deep")
        self._marked.append(self._stack)
        self._stack = []

    def protocol(self) -> None:
        if self._number("<B") > 5:
            raise self._error("its pickle is of an unknown protocol")

    def frame(self) -> None:
        self._take(8)  # how much to read ahead: nothing we need

    def integer(self, layout: str) -> None:
        self._push(self._number(layout))

    def long(self, layout: str) -> None:
        length = self._number(layout)
        if not 0 <= length <= MAX_INTEGER:
            raise self._error(f"its pickle has an integer of {length} bytes")
        self._push(int.from_bytes(self._take(length), "little", signed=True))

    def real(self) -> None:
        self._push(struct.unpack(">d", self._take(8))[0])

    def string(self, layout: str) -> None:
        raw = self._sized(layout)
        self._push(self._text(raw) if len(raw) <= MAX_STRING else Inert("long string"))

    def raw(self, layout: str) -> None:
        raw = self._sized(layout)
        self._push(raw if len(raw) <= MAX_STRING else Inert("long bytes"))

    def _sized(self, layout: str) -> bytes:
        length = self._number(layout)
        if not 0 <= length <= self._end - self.position:
            raise self._error(f"its pickle claims {length} bytes where {self._end - self.position} are left")
        return self._take(length)

    def tuple_of(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._push(tuple(reversed(items)))

    def tuple_to_mark(self) -> None:
        items = tuple(self._pop_to_mark())
        self._push(items)

    def frozen_set(self) -> None:
        self._pop_to_mark()
        self._push(Inert("frozenset"))

    def add_items(self) -> None:
        self._pop_to_mark()
        if not isinstance(self._top(), Inert):
            raise self._error("its pickle adds to what is no set")

    def pop(self) -> None:
        self._pop()

    def pop_to_mark(self) -> None:
        self._pop_to_mark()

    def append(self) -> None:
        self._extend([self._pop()])

    def extend(self) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, items: list[object]) -> None:
        target = self._top()
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Inert):
            raise self._error("its pickle appends to what is no list")

    def set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def set_items(self) -> None:
        self._set_items(self._pop_to_mark())

    def _set_items(self, items: list[object]) -> None:
        target = self._top()
        if len(items) % 2 or not isinstance(target, dict | Inert):
            raise self._error("its pickle sets items of what is no dictionary")
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[hashable(key)] = value

    def put(self, layout: str) -> None:
        self._memo[self._number(layout)] = self._top()

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self._top()

    def get(self, layout: str) -> None:
        index = self._number(layout)
        if index not in self._memo:
            raise self._error(f"its pickle recalls object {index}, which it never stored")
        self._push(self._memo[index])

    def global_name(self) -> None:
        module = self._line()
        self._push(self._resolve(module, self._line()))

    def stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise self._error("its pickle has a name that is no text")
        self._push(self._resolve(module, name))

    def _resolve(self, module: str, name: str) -> object:
        full = f"{module}.{name}"
        if full in self._names:
            return self._names[full]
        if is_dangerous(module, name):
            raise self._error(f"its pickle asks for {quoted(full)}, which no checkpoint needs: it may be an attack")
        return Inert(full)

    def reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(arguments, tuple):
            raise self._error("its pickle calls something without arguments")
        self._push(self._call(function, arguments))

    def new_object_with_keywords(self) -> None:
        self._pop()
        self.reduce()

    def _call(self, function: object, arguments: tuple[object, ...]) -> object:
        if isinstance(function, Inert):
            return Inert(function.kind)
        if not isinstance(function, Known):
            raise self._error("its pickle calls what is no function")
        return self._checked(function.function, arguments)

    def build(self) -> None:
        state = self._pop()
        target = self._top()
        if isinstance(target, Inert) and isinstance(state, dict):
            target.state = state

    def persistent_id(self) -> None:
        identity = self._pop()
        if not isinstance(identity, tuple):
            raise self._error("its pickle names a storage in an unknown way")
        self._push(self._checked(self._persistent, identity))

    def _checked(self, function: Function, arguments: tuple[object, ...]) -> object:
        try:
            return function(arguments)
        except Refused as refusal:
            raise self._error(str(refusal)) from refusal

    def _check_depth(self, root: object) -> None:
        """Refuse nesting that no checkpoint has."""
        level, seen = [root], {id(root)}
        for _ in range(MAX_DEPTH):
            inner = {id(item): item for container in level for item in _items(container) if id(item) not in seen}
            seen |= inner.keys()
            level = list(inner.values())
        if level:
            raise self._error(f"its pickle nests more than {MAX_DEPTH} deep")


def _items(container: object) -> list[object]:
    """The containers inside a container."""
    values: list[object] = []
    if isinstance(container, dict):
        values = list(container.values())
    elif isinstance(container, list | tuple):
        values = list(container)
    elif isinstance(container, Inert) and container.state is not None:
        values = [container.state]
    return [value for value in values if isinstance(value, dict | list | tuple | Inert)]


def _name_of(code: bytes) -> str:
    text = code.decode("latin-1")
    return _OPCODE_NAMES.get(text, quoted(text))


_OPERATIONS: Mapping[bytes, Callable[[PickleReader], None]] = {
    b"\x80": PickleReader.protocol,
    b"\x95": PickleReader.frame,
    # Values
    b"N": lambda reader: reader._push(None),
    b"\x88": lambda reader: reader._push(True),
    b"\x89": lambda reader: reader._push(False),
    b"K": lambda reader: reader.integer("<B"),
    b"M": lambda reader: reader.integer("<H"),
    b"J": lambda reader: reader.integer("<i"),
    b"\x8a": lambda reader: reader.long("<B"),
    b"\x8b": lambda reader: reader.long("<i"),
    b"G": PickleReader.real,
    b"X": lambda reader: reader.string("<I"),
    b"\x8c": lambda reader: reader.string("<B"),
    b"\x8d": lambda reader: reader.string("<Q"),
    b"T": lambda reader: reader.string("<i"),
    b"U": lambda reader: reader.string("<B"),
    b"B": lambda reader: reader.raw("<I"),
    b"C": lambda reader: reader.raw("<B"),
    b"\x8e": lambda reader: reader.raw("<Q"),
    b"\x96": lambda reader: reader.raw("<Q"),
    # Containers
    b"(": PickleReader.mark,
    b"0": PickleReader.pop,
    b"1": PickleReader.pop_to_mark,
    b")": lambda reader: reader._push(()),
    b"\x85": lambda reader: reader.tuple_of(1),
    b"\x86": lambda reader: reader.tuple_of(2),
    b"\x87": lambda reader: reader.tuple_of(3),
    b"t": PickleReader.tuple_to_mark,
    b"]": lambda reader: reader._push([]),
    b"a": PickleReader.append,
    b"e": PickleReader.extend,
    b"}": lambda reader: reader._push({}),
    b"s": PickleReader.set_item,
    b"u": PickleReader.set_items,
    b"\x8f": lambda reader: reader._push(Inert("set")),
    b"\x90": PickleReader.add_items,
    b"\x91": PickleReader.frozen_set,
    # Memory
    b"q": lambda reader: reader.put("<B"),
    b"r": lambda reader: reader.put("<I"),
    b"\x94": PickleReader.memoize,
    b"h": lambda reader: reader.get("<B"),
    b"j": lambda reader: reader.get("<I"),
    # Names and objects
    b"c": PickleReader.global_name,
    b"\x93": PickleReader.stack_global,
    b"R": PickleReader.reduce,
    b"\x81": PickleReader.reduce,
    b"\x92": PickleReader.new_object_with_keywords,
    b"b": PickleReader.build,
    b"Q": PickleReader.persistent_id,
}
