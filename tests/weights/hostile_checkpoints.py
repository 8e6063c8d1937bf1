"""Checkpoints that are damaged, that lie, or that attack: zip archives and old files around a pickle."""

import struct
import zlib
from dataclasses import dataclass

from hostile_pickles import PROTOCOL_2, PROTOCOL_4, call, dead_attacks, live_attacks, name, text, value

STORED = 0


@dataclass
class Item:
    """One entry of an archive; None stands for the truth."""

    name: str
    data: bytes
    method: int = STORED
    flags: int = 0
    size: int | None = None
    packed: int | None = None
    header: int | None = None
    extra: bytes = b""


def archive(*items: Item, **lies: int) -> bytes:
    """A zip archive; `lies` replace the count, size, offset or disk of its directory."""
    body, directory = b"", b""
    for item in items:
        raw, title = item.data, item.name.encode()
        header = len(body) if item.header is None else item.header
        size = len(raw) if item.size is None else item.size
        packed = len(raw) if item.packed is None else item.packed
        body += struct.pack("<4s5H3I2H", b"PK\3\4", 20, item.flags, item.method, 0, 0, 0, packed, size, len(title), 0)
        body += title + raw
        directory += struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", 20, 20, item.flags, item.method, 0, 0, 0, packed, size,
            len(title), len(item.extra), 0, 0, 0, 0, header,
        )  # fmt: skip
        directory += title + item.extra
    count, size, offset = lies.get("count", len(items)), lies.get("size", len(directory)), lies.get("offset", len(body))
    end = struct.pack("<4s4H2IH", b"PK\5\6", lies.get("disk", 0), 0, count, count, size, offset, 0)
    return body + directory + end


def checkpoint(pickle: bytes, storages: dict[str, bytes] | None = None, *more: Item) -> bytes:
    """An archive as torch.save writes it."""
    storages = {"0": bytes(64)} if storages is None else storages
    parts = [Item(f"archive/data/{key}", data) for key, data in storages.items()]
    return archive(Item("archive/data.pkl", pickle), *parts, Item("archive/version", b"3\n"), *more)


def storage(key: str = "0", count: int = 16, kind: str = "FloatStorage", *more: object) -> bytes:
    items = (text("storage"), name("torch", kind), text(key), text("cpu"), value(count), *map(value, more))
    return b"(" + b"".join(items) + b"tQ"


def tensor(
    its: bytes | None = None, offset: object = 0, shape: object = (4, 4), stride: object = (4, 1), function: str = ""
) -> bytes:
    hooks = call(name("collections", "OrderedDict"))
    arguments = (its or storage(), value(offset), value(shape), value(stride), value(False), hooks)
    return call(name("torch._utils", function or "_rebuild_tensor_v2"), *arguments)


def table(**entries: bytes) -> bytes:
    """The pickle of a dictionary."""
    return PROTOCOL_2 + b"}" + b"".join(text(key) + item + b"s" for key, item in entries.items()) + b"."


GOOD = checkpoint(table(weight=tensor()))


def legacy(pickle: bytes, keys: bytes = value(["0"]), storages: bytes = struct.pack("<q", 16) + bytes(64)) -> bytes:
    """A file as torch.save wrote it before 1.6."""
    magic, system = value(0x1950A86A20F9469CFC6C), value({"protocol_version": 1001, "little_endian": True})
    start = b"".join(PROTOCOL_2 + part + b"." for part in (magic, value(1001), system))
    return start + pickle + PROTOCOL_2 + keys + b"." + storages


GOOD_LEGACY = legacy(table(weight=tensor(storage("0", 16, "FloatStorage", None))))


def attacks(canary: str) -> dict[str, bytes]:
    """Every attack in an archive, and some of them beside good tensors, inside them, and in other files."""
    pickles = {**live_attacks(canary), **dead_attacks(canary)}
    files = {f"attack {title}": checkpoint(data) for title, data in pickles.items()}
    files |= {f"attack {title}, old file": legacy(data) for title, data in list(pickles.items())[::3]}
    files |= {f"attack {title}, bare pickle": data for title, data in list(pickles.items())[::4]}
    # Whoever runs it has the code run; whoever only looks for tensors finds good ones.
    run = call(name("os", "system"), text(f"touch {canary}"))
    files["attack beside a good tensor"] = checkpoint(table(weight=tensor(), x=run))
    files["attack in a state_dict"] = checkpoint(
        table(state_dict=b"}" + text("w") + tensor() + b"s" + text("x") + run + b"s")
    )
    files["attack in a storage's key"] = checkpoint(
        table(w=tensor(b"(" + text("storage") + name("torch", "FloatStorage") + run + text("cpu") + value(16) + b"tQ"))
    )
    files["attack as a storage class"] = checkpoint(
        table(w=tensor(b"(" + text("storage") + run + text("0") + text("cpu") + value(16) + b"tQ"))
    )
    files["attack as a persistent id"] = checkpoint(table(w=tensor(run + b"Q")))
    files["attack in a tensor's shape"] = checkpoint(
        table(w=call(name("torch._utils", "_rebuild_tensor_v2"), storage(), value(0), run, value((4, 1))))
    )
    files["attack in a tensor's hooks"] = checkpoint(
        table(
            w=call(name("torch._utils", "_rebuild_tensor_v2"), storage(), value(0), value((4, 4)), value((4, 1)), run)
        )
    )
    files["attack as a tensor's class"] = checkpoint(
        table(w=call(name("torch._tensor", "_rebuild_from_type_v2"), name("os", "system"), run, b")", b"}"))
    )
    program = Item("archive/code/__torch__.py", b"import os")
    files["TorchScript"] = checkpoint(table(w=tensor()), None, program)
    files["TorchScript constants"] = checkpoint(table(w=tensor()), None, Item("archive/constants.pkl", table(x=run)))
    files["attack before the magic"] = PROTOCOL_2 + run + b"0" + GOOD_LEGACY[2:]
    files["attack in the storage keys"] = legacy(table(w=tensor()), run)
    return files


def bombs() -> dict[str, bytes]:
    """Files that would grow: in memory, in time, or in depth."""
    zeros = bytes(1 << 20)
    packed = zlib.compress(zeros, 9)[2:-4]
    described = PROTOCOL_2 + b"}" + text("w") + tensor(storage("0", 1 << 18), 0, (1 << 18,), (1,)) + b"s."
    pickle = Item("archive/data.pkl", described)
    packed_pickle = Item("archive/data.pkl", zlib.compress(described)[2:-4], 8, size=len(described))
    million = {f"w{i}": tensor(storage("0", 250_000), 0, (250_000,), (1,)) for i in range(1000)}
    return {
        "deflated storage": archive(pickle, Item("archive/data/0", packed, 8, size=len(zeros))),
        "deflated pickle": archive(packed_pickle, Item("archive/data/0", zeros)),
        "bzip2 storage": archive(pickle, Item("archive/data/0", packed, 12, size=len(zeros))),
        "lzma storage": archive(pickle, Item("archive/data/0", packed, 14, size=len(zeros))),
        "one storage, a thousand names": checkpoint(table(**million), {"0": bytes(1_000_000)}),
        **{title: checkpoint(data) for title, data in _growing_pickles().items()},
    }


def _growing_pickles() -> dict[str, bytes]:
    gigabyte = value(1 << 30)
    nested = b"]" * 200_000 + b"a" * 199_999
    table_in_tables = (b"}" + text("x")) * 300 + b"}" + text("w") + tensor() + b"s" + b"s" * 300
    objects = (name("x", "Y") + b")\x81}" + text("x")) * 20_000 + b"N" + b"sb" * 20_000
    # Multiples of 2^61 - 1 have the same hash.
    colliding = b"".join(b"\x8a\x10" + (i * (2**61 - 1)).to_bytes(16, "little") + b"N" for i in range(100_000))
    wide = "💥".encode() * 16_000  # four times as large as text in Python
    words = (b"X" + struct.pack("<I", len(wide)) + wide) * 300
    doubling = b"".join(
        b"q%c0}" % i + b"".join(text(key) + b"h%cs" % i for key in "abc") for i in range(60)
    )  # each dictionary holds the one before three times
    new, parts = name("a", "B") + b")\x81", ("_parameters", "_buffers", "_modules")
    tripling = new + b"q\x00"
    for level in range(1, 30):
        inner = b"".join(text(part) + b"h" + bytes([level - 1]) + b"s" for part in parts)
        tripling += b"0" + new + b"}" + inner + b"bq" + bytes([level])
    copies = b"](" + b"K\x01K\x02\x86" * 20_000 + b"eq\x00" + name("collections", "OrderedDict") + b"q\x01"
    copies += b"h\x01h\x00\x85R" * 200_000
    itself = b"".join(b"\x8c\x05" + f"{number:05}".encode() + b"h\x00" for number in range(90_000))
    other = name("torch._tensor", "_rebuild_from_type_v2")
    within = other + b"q\x00" + b"h\x00N" * 2_000 + b")" + b"\x87" * 2_000 + b"R"
    return {
        "bytearray of 1 GiB": table(w=tensor(), x=call(name("builtins", "bytearray"), gigabyte)),
        "bytearray of 1 GiB, Python 2": table(w=call(name("__builtin__", "bytearray"), gigabyte)),
        "200,000 nested lists": PROTOCOL_2 + nested + b".",
        "200,000 nested lists beside a tensor": table(w=tensor(), x=nested),
        "200,000 nested tuples": PROTOCOL_2 + b")" + b"\x85" * 200_000 + b".",
        "100,000 nested dictionaries": PROTOCOL_2 + b"}" + (text("x") + b"}") * 100_000 + b"s" * 100_000 + b".",
        "100,000 nested marks": PROTOCOL_2 + b"(" * 100_000 + b"t" * 100_000 + b".",
        "20,000 nested objects": PROTOCOL_2 + objects + b".",
        "a tensor 300 tables deep": PROTOCOL_2 + table_in_tables + b".",
        "two million instructions": PROTOCOL_2 + b"N0" * 1_000_000 + b"N.",
        "two million dictionaries": PROTOCOL_2 + b"}" * 2_000_000 + b".",
        "two million sets": PROTOCOL_4 + b"\x8f" * 2_000_000 + b".",
        "two million memos": PROTOCOL_4 + b"}" + b"\x94" * 2_000_000 + b".",
        "colliding keys": PROTOCOL_2 + b"}(" + colliding + b"u.",
        "dictionaries that triple": PROTOCOL_2 + b"}" + doubling + b".",
        "objects that triple": PROTOCOL_2 + tripling + b".",
        "a list that is copied": PROTOCOL_2 + copies + b".",
        "a dictionary of itself": PROTOCOL_4 + b"}q\x00(" + itself + b"u.",
        "a dictionary of itself under bytes": PROTOCOL_4 + b"}q\x00(" + itself.replace(b"\x8c", b"C") + b"u.",
        "tensors of another class within each other": PROTOCOL_2 + within + b".",
        "20 MB of wide words": PROTOCOL_2 + b"](" + words + b"e.",
        "a dictionary inside itself": PROTOCOL_2 + b"}q\x00" + text("state_dict") + b"h\x00s" + b".",
        "a list inside itself": PROTOCOL_2 + b"]q\x00h\x00a.",
        "a name of 60,000 letters": table(**{"x" * 60_000: tensor()}),
    }


def lies() -> dict[str, bytes]:
    """Archives, pickles and tensors whose numbers do not agree."""
    good, item = table(weight=tensor()), Item("archive/data.pkl", table(weight=tensor()))
    data = Item("archive/data/0", bytes(64))
    files = {
        "encrypted": archive(Item("archive/data.pkl", good, flags=1), data),
        "two sizes": archive(item, Item("archive/data/0", bytes(64), size=64, packed=32)),
        "larger than the file": archive(item, Item("archive/data/0", bytes(64), size=1 << 20, packed=1 << 20)),
        "4 GiB": archive(item, Item("archive/data/0", bytes(64), size=0xFFFFFFFE, packed=0xFFFFFFFE)),
        "64-bit size missing": archive(item, Item("archive/data/0", bytes(64), size=0xFFFFFFFF, packed=0xFFFFFFFF)),
        "64-bit size cut": archive(
            item, Item("archive/data/0", bytes(64), size=0xFFFFFFFF, packed=0xFFFFFFFF, extra=b"\1\0\x10\0" + bytes(4))
        ),
        "64-bit size huge": archive(
            item,
            Item("archive/data/0", bytes(64), size=0xFFFFFFFF, packed=0xFFFFFFFF, extra=b"\1\0\x10\0" + b"\xff" * 16),
        ),
        "overlapping entries": archive(item, data, Item("archive/data/1", bytes(64), header=0)),
        "entry over the directory": archive(item, Item("archive/data/0", bytes(64), size=90, packed=90)),
        "header beyond the end": archive(item, Item("archive/data/0", bytes(64), header=1 << 30)),
        "header in the middle": archive(item, Item("archive/data/0", bytes(64), header=7)),
        "an entry twice": archive(item, data, data),
        "two pickles": archive(item, Item("other/data.pkl", good), data),
        "no pickle": archive(data),
        "pickle elsewhere": archive(Item("../../data.pkl", good), data),
        "a zip as the pickle": checkpoint(GOOD),
        "a checkpoint in a zip": archive(Item("model.ckpt", GOOD)),
        "an archive in the archive": checkpoint(PROTOCOL_2 + b"N.", {"0": GOOD}),
        "empty archive": archive(),
        "storage missing": checkpoint(good, {}),
        "storage short": checkpoint(good, {"0": bytes(63)}),
        "storage by another name": checkpoint(good, {"1": bytes(64)}),
        "big-endian": checkpoint(good, None, Item("archive/byteorder", b"big")),
        "count too large": archive(item, data, count=9),
        "count huge": archive(item, data, count=65534),
        "directory elsewhere": archive(item, data, offset=4),
        "directory huge": archive(item, data, size=0x7FFFFFFF),
        "several volumes": archive(item, data, disk=1),
        "empty pickle": checkpoint(b""),
    }
    return files | _pickle_lies() | _tensor_lies()


def _pickle_lies() -> dict[str, bytes]:
    pickles = {
        "text longer than the file": PROTOCOL_2 + b"X\xff\xff\xff\x7f.",
        "text of 2^63 bytes": PROTOCOL_4 + b"\x8d" + b"\xff" * 7 + b"\x7f.",
        "bytes of 2^64 bytes": PROTOCOL_4 + b"\x8e" + b"\xff" * 8 + b".",
        "bytearray of 2^40 bytes": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
        "old text of negative length": PROTOCOL_2 + b"T" + struct.pack("<i", -5) + b"abc.",
        "integer of 2^31 bytes": PROTOCOL_2 + b"\x8b\xff\xff\xff\x7f.",
        "integer of negative length": PROTOCOL_2 + b"\x8b" + struct.pack("<i", -1) + b".",
        "integer of 255 bytes": PROTOCOL_2 + b"\x8a\xff" + bytes(255) + b".",
        "text integer of 10,000 digits": PROTOCOL_2 + b"L" + b"9" * 10_000 + b"L\n.",
        "recalls what it never stored": PROTOCOL_2 + b"h\x05.",
        "recalls far": PROTOCOL_2 + b"j\xff\xff\xff\xff.",
        "empty stack": PROTOCOL_2 + b".",
        "pops too much": PROTOCOL_2 + b"N00N.",
        "no end": PROTOCOL_2 + b"}",
        "no mark": PROTOCOL_2 + b"Nt.",
        "unknown instruction": PROTOCOL_2 + b"\xfe.",
        "future protocol": b"\x80\x63}.",
        "out-of-band buffer": b"\x80\x05\x97.",
        "name without end": PROTOCOL_2 + b"ctorch",
        "appends to a number": PROTOCOL_2 + b"K\x01Na.",
        "sets items of a list": PROTOCOL_2 + b"]NNs.",
        "odd items": PROTOCOL_2 + b"}(NNNu.",
        "adds to a list": PROTOCOL_4 + b"](N\x90.",
        "builds nothing": PROTOCOL_2 + b"}b.",
        "name made of numbers": PROTOCOL_4 + b"K\x01K\x02\x93.",
        "a number": PROTOCOL_2 + b"K\x01.",
        "nothing": PROTOCOL_2 + b"N.",
        "a class of no tensors": PROTOCOL_2 + name("models", "Net") + b")\x81}" + text("x") + b"K\x01sb.",
        "a module of no tensors": PROTOCOL_2 + name("models", "Net") + b")\x81}" + text("_parameters") + b"}sb.",
        "ordered dictionary of a number": PROTOCOL_2 + call(name("collections", "OrderedDict"), value(3)) + b".",
        "ordered dictionary of no pairs": PROTOCOL_2 + call(name("collections", "OrderedDict"), value([1, 2])) + b".",
        "size of texts": PROTOCOL_2 + call(name("torch", "Size"), value(("a",))) + b".",
    }
    return {f"pickle: {title}": checkpoint(data) for title, data in pickles.items()}


def _tensor_lies() -> dict[str, bytes]:
    huge = 1 << 61
    tensors = {
        "negative offset": tensor(None, -1),
        "offset beyond": tensor(None, 1),
        "huge offset": tensor(None, huge),
        "negative size": tensor(None, 0, (-4, 4)),
        "negative stride": tensor(None, 0, (4, 4), (-4, 1)),
        "huge size": tensor(None, 0, (huge, huge), (1, 1)),
        "huge stride": tensor(None, 0, (4, 4), (huge, 1)),
        "2^70": tensor(None, 0, (1 << 70,), (1,)),
        "repeated by stride 0": tensor(None, 0, (1 << 40,), (0,)),
        "repeated by overlapping strides": tensor(None, 0, (9, 8), (1, 1)),
        "fewer strides": tensor(None, 0, (4, 4), (1,)),
        "sizes as texts": tensor(None, 0, ("4", "4"), (4, 1)),
        "sizes as numbers with a point": tensor(None, 0, (4.0, 4.0), (4, 1)),
        "sizes as a list": tensor(None, 0, [4, 4], (4, 1)),
        "size none": tensor(None, 0, None, (4, 1)),
        "offset none": tensor(None, None),
        "40 dimensions": tensor(None, 0, (1,) * 40, (1,) * 40),
        "larger storage": tensor(storage("0", 17)),
        "huge storage": tensor(storage("0", huge)),
        "negative storage": tensor(storage("0", -1)),
        "storage of texts": tensor(storage("0", "16")),  # type: ignore[arg-type]
        "storage without type": tensor(storage("0", 64, "UntypedStorage")),
        "unknown storage": tensor(storage("0", 16, "QuantumStorage")),
        "key from elsewhere": tensor(storage("../../etc/passwd", 16)),
        "old view": tensor(storage("0", 16, "FloatStorage", ("1", 0, 16))),
        "no storage": tensor(value(None)),
        "no storage but a number": tensor(value(5)),
        "persistent text": tensor(text("storage") + b"Q"),
        "persistent module": tensor(b"(" + text("module") + text("x") + text("y") + b"tQ"),
        "without type": tensor(storage("0", 64, "UntypedStorage"), function="_rebuild_tensor_v3"),
        "sparse": tensor(function="_rebuild_sparse_tensor"),
        "quantised": tensor(function="_rebuild_qtensor"),
        "parameter of nothing": call(name("torch._utils", "_rebuild_parameter"), value(None), value(True)),
        "no arguments": call(name("torch._utils", "_rebuild_tensor_v2")),
    }
    return {f"tensor: {title}": checkpoint(table(weight=data)) for title, data in tensors.items()}


def old_lies() -> dict[str, bytes]:
    """The same in files older than torch 1.6."""
    good = table(weight=tensor())
    size = struct.pack("<q", 16)
    return {
        "old: wrong magic": PROTOCOL_2 + value(42) + b"." + GOOD_LEGACY[20:],
        "old: a dictionary only": table(weight=value(1)),
        "old: keys missing": legacy(good, value([])),
        "old: keys unknown": legacy(good, value(["7"])),
        "old: keys twice": legacy(good, value(["0", "0"]), (size + bytes(64)) * 2),
        "old: keys no list": legacy(good, value(7)),
        "old: keys no texts": legacy(good, value([0])),
        "old: other size": legacy(good, storages=struct.pack("<q", 15) + bytes(64)),
        "old: negative size": legacy(good, storages=struct.pack("<q", -16) + bytes(64)),
        "old: huge size": legacy(good, storages=struct.pack("<q", 1 << 62) + bytes(64)),
        "old: storage cut": legacy(good, storages=size + bytes(60)),
        "old: a million storage keys": legacy(good, b"](" + b"K\x01" * 1_000_000 + b"e"),
        "old: huge storage": legacy(table(weight=tensor(storage("0", 1 << 61)))),
    }
