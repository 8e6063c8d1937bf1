"""Writes hundreds of damaged and hostile weight files: `python hostile_files.py FOLDER CANARY`.

In FOLDER/refuse lie those that must be refused, in FOLDER/survive those that may be harmless: good files with random
bytes changed. Nothing that runs code from any of them may create CANARY.
"""

import itertools
import json
import os
import random
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import hostile_checkpoints


def safetensors(header: object, data: bytes = bytes(64), length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(
    dtype: object = "F32", shape: object = (4, 4), offsets: object = (0, 64), **more: object
) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def bad_safetensors() -> dict[str, bytes]:
    lengths = (0, 1, 7, 8, 63, 500, 1 << 20, 10**8, 10**8 + 1, 1 << 31, 1 << 32, 1 << 62, 1 << 63, (1 << 64) - 1)
    good = {"w": entry()}
    files = {f"length {length}": safetensors(good, length=length) for length in lengths}
    files |= {f"type {dtype}": safetensors({"w": entry(dtype)}) for dtype in ("F31", "f32", "", "F4", "Q4_0", "💥")}
    files |= {f"type no text {n}": safetensors({"w": entry(bad)}) for n, bad in enumerate((None, 32, [], {}, ["F32"]))}
    shapes = ((4, 3), (4, 5), (-4, -4), (4.0, 4.0), "44", None, 16, {}, ["4", "4"], [[4], [4]], (), (1 << 63, 2))
    files |= {f"shape {n}": safetensors({"w": entry(shape=shape)}) for n, shape in enumerate(shapes)}
    files["shape overflows"] = safetensors({"w": entry(shape=[1 << 32, 1 << 32])})
    for number in (590_000, 8_000_000):
        numbers = b",".join([b"1"] * number)
        raw = b'{"w":{"dtype":"F32","shape":[' + numbers + b'],"data_offsets":[0,4]}}'
        files[f"shape of {number} numbers"] = safetensors(raw, bytes(5))
    offsets = ((0, 63), (0, 65), (1, 65), (64, 0), (-64, 0), (0, 1 << 63), (0, 1 << 70), (0,), (0, 32, 64), None, "x")
    files |= {f"offsets {n}": safetensors({"w": entry(offsets=pair)}) for n, pair in enumerate((*offsets, (0.0, 64.0)))}
    two = {"overlap": ((0, 64), (32, 96)), "same": ((0, 64), (0, 64)), "hole": ((0, 64), (72, 136))}
    for title, (first, second) in two.items():
        header = {"a": entry(offsets=first), "b": entry(offsets=second)}
        files[f"offsets {title}"] = safetensors(header, bytes(second[1]))
    texts = (
        b"", b"{", b"}", b"[]", b"null", b"1", b"{}x", b"{'w': 1}", b'{"w":1}', b'{"w":[]}', b'{"w":{}}', b'{"w":null}',
        b'{"w":{"dtype":"F32"}}', b'{"w":NaN}', b"\xff\xfe{}", b'\xef\xbb\xbf{"w":1}', b'{"\xff":1}', b'{"\\ud800":1}',
        b"{" * 1000, b'{"w":' * 100_000, b'{"w":' + b"[" * 100_000, b" " * 5000, b"\0" * 500, b"[" * 1_000_000,
        b'{"__metadata__":1}', b'{"__metadata__":{"a":1}}', b'{"__metadata__":{"a":{"b":"c"}}}', b'{"__metadata__":[]}',
    )  # fmt: skip
    files |= {f"text {n}": safetensors(raw) for n, raw in enumerate(texts)}
    deep = b'{"w":{"dtype":"F32","shape":[4,4],"data_offsets":[0,64],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
    files["unknown field, deep, and bytes too many"] = safetensors(deep, bytes(65))
    files["17 MB header"] = safetensors(b'{"__metadata__":{"a":"' + b"x" * (17 << 20) + b'"}}', b"")
    # Those that are just not refused for their number must not cost much either.
    for number in (290_000, 900_000):
        entries = b",".join(b'"%x":""' % n for n in range(number))
        files[f"{number} notes"] = safetensors(b'{"__metadata__":{' + entries + b"}}", b"")
    for number in (45_000, 300_000):
        entries = b",".join(b'"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % n for n in range(number))
        files[f"{number} tensors"] = safetensors(b"{" + entries + b"}", bytes(1))
    files["a name twice"] = safetensors(
        b'{"w":' + json.dumps(entry()).encode() + b',"w":' + json.dumps(entry(offsets=(64, 128))).encode() + b"}",
        bytes(128),
    )
    files["bytes too many"] = safetensors(good, bytes(65))
    files["no tensors"] = safetensors({"__metadata__": {"a": "b"}}, b"")
    whole = safetensors(good)
    return files | {f"cut at {cut}": whole[:cut] for cut in range(len(whole))}


def gguf_text(value: str | bytes, length: int | None = None) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def gguf_tensor(
    name: str = "w", sizes: tuple[int, ...] = (4, 4), kind: int = 0, offset: int = 0, rank: int | None = None
) -> bytes:
    numbers = struct.pack(f"<{len(sizes)}Q", *sizes)
    return (
        gguf_text(name)
        + struct.pack("<I", len(sizes) if rank is None else rank)
        + numbers
        + struct.pack("<IQ", kind, offset)
    )


def gguf(
    tensors: list[bytes],
    values: Sequence[bytes] = (),
    data: bytes = bytes(64),
    version: int = 3,
    tensor_count: int | None = None,
    value_count: int | None = None,
) -> bytes:
    """A GGUF file; a count that is given replaces the true one."""
    counts = len(tensors) if tensor_count is None else tensor_count, len(values) if value_count is None else value_count
    head = struct.pack("<4sIQQ", b"GGUF", version, *counts)
    head += b"".join(values) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


def bad_gguf() -> dict[str, bytes]:
    numbers = (100, 1 << 31, 1 << 40, 1 << 60, (1 << 64) - 1)
    one, key = gguf_tensor(), gguf_text("general.x")
    files = {f"{number} tensors": gguf([one], tensor_count=number) for number in numbers}
    files |= {f"{number} values": gguf([one], value_count=number) for number in numbers}
    files |= {f"name of {number}": gguf([gguf_text(b"w", number) + one[9:]]) for number in (5000, *numbers[1:])}
    files |= {f"key of {number}": gguf([one], [gguf_text(b"k", number) + bytes(8)]) for number in (5000, *numbers[1:])}
    files |= {
        f"text of {number}": gguf([one], [key + struct.pack("<I", 8) + gguf_text(b"x", number)]) for number in numbers
    }
    for kind, number in itertools.product((0, 4, 7, 8, 10, 12), numbers):
        files[f"list of {number} of type {kind}"] = gguf([one], [key + struct.pack("<IIQ", 9, kind, number)])
    files |= {f"value of type {kind}": gguf([one], [key + struct.pack("<II", kind, 0)]) for kind in (13, 99, 1 << 31)}
    files |= {
        f"list of type {kind}": gguf([one], [key + struct.pack("<IIQ", 9, kind, 1) + bytes(16)]) for kind in (9, 13, 77)
    }
    files["lists in lists"] = gguf([one], [key + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 10_000])
    files["a million words"] = gguf([one], [key + struct.pack("<IIQ", 9, 8, 1_000_000) + bytes(8_000_000)])
    files |= {f"version {version}": gguf([one], version=version) for version in (0, 1, 4, 99, 2 << 24, 3 << 24)}
    files |= {
        f"tensor of type {kind}": gguf([gguf_tensor(kind=kind)]) for kind in (4, 5, 9, 15, 16, 23, 29, 31, 99, 1 << 31)
    }
    shapes = ((1 << 63,), (1 << 32, 1 << 32), (1 << 62, 4), (0,), (4, 0), (5, 4), (1,) * 9, ((1 << 64) - 1,) * 8)
    files |= {f"shape {n}": gguf([gguf_tensor(sizes=shape)]) for n, shape in enumerate(shapes)}
    files |= {f"rank {rank}": gguf([gguf_tensor(rank=rank)]) for rank in (3, 9, 1000, (1 << 32) - 1)}
    files |= {
        f"rows no blocks {kind}": gguf([gguf_tensor(sizes=(33, 2), kind=kind)], data=bytes(512)) for kind in (2, 8, 12)
    }
    files["blocks without a row"] = gguf([gguf_tensor(sizes=(), kind=8)])
    files |= {
        f"offset {offset}": gguf([gguf_tensor(offset=offset)]) for offset in (1, 32, 1 << 40, 1 << 63, (1 << 64) - 1)
    }
    overlapping = [gguf_tensor("a"), gguf_tensor("b", offset=32)]
    files["overlapping"] = gguf(overlapping, data=bytes(96))
    files["the same place"] = gguf([gguf_tensor("a"), gguf_tensor("b")])
    files["the same name"] = gguf([gguf_tensor("a"), gguf_tensor("a", offset=64)], data=bytes(128))
    for number in (0, 3, 33, 1 << 20, (1 << 32) - 1):
        value = gguf_text("general.alignment") + struct.pack("<II", 4, number)
        files[f"alignment {number}"] = gguf([one], [value])
    files["alignment a text"] = gguf([one], [gguf_text("general.alignment") + struct.pack("<I", 8) + gguf_text("32")])
    for n, sizes in enumerate(((4, 5), (0, 16), (-4, -4), (1 << 30, 1 << 30))):
        original = gguf_text("comfy.gguf.orig_shape.w") + struct.pack("<IIQ2i", 9, 5, 2, *sizes)
        files[f"original shape {n}"] = gguf([one], [original])
    files["no tensors"] = gguf([])
    whole = gguf([one], [key + struct.pack("<II", 4, 1)])
    return files | {f"cut at {cut}": whole[:cut] for cut in range(4, len(whole))}


def bad_indexes() -> dict[str, bytes]:
    places: dict[str, object] = {
        "none": {}, "a list": [], "numbers": {"w": 1}, "nothing": {"w": None}, "empty name": {"w": ""},
        "dot": {"w": "."}, "dots": {"w": ".."}, "above": {"w": "../good.safetensors"}, "root": {"w": "/etc/passwd"},
        "Windows": {"w": "C:\\x"}, "NUL": {"w": "a\0b"}, "missing": {"w": "missing.safetensors"},
        "another tensor": {"v": "good.safetensors"}, "long": {"w": "x" * 5000},
        "two thousand": {str(n): f"{n}.safetensors" for n in range(2000)},
    }  # fmt: skip
    files = {title: json.dumps({"weight_map": place}).encode() for title, place in places.items()}
    texts = (
        b"{",
        b"{}",
        b'{"a": 1}',
        b'{"weight_map": ' + b"[" * 100_000,
        b"{" + b" " * (5 << 20),
        b'{"weight_map": NaN}',
    )
    files |= {f"text {n}": raw for n, raw in enumerate(texts)}
    files["millions of lists"] = b'{"weight_map": [' + b"[]," * 1_300_000 + b"[]]}"
    files["a number of a million digits"] = b'{"weight_map": ' + b"9" * 1_000_000 + b"}"
    return files


def other_files() -> dict[str, bytes]:
    return {
        "empty": b"", "one byte": b"x", "zeros": bytes(4096), "ones": b"\xff" * 4096, "text": b"hello, world\n" * 50,
        "page": b"<!DOCTYPE html><html><title>404</title></html>", "xml": b"\n\n<?xml version='1.0'?><Error/>",
        "LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4265380512\n",
        "gzip": b"\x1f\x8b\x08" + bytes(50), "7z": b"7z\xbc\xaf\x27\x1c" + bytes(50), "rar": b"Rar!" + bytes(50),
        "numpy": b"\x93NUMPY\x01\0" + bytes(50), "picture": b"\x89PNG\r\n\x1a\n" + bytes(50),
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(50), "only GGUF": b"GGUF", "only PK": b"PK\3\4", "pickle": b"\x80\2",
    }  # fmt: skip


def special_files(folder: Path) -> None:
    """What is no regular file at all."""
    os.mkfifo(folder / "named pipe.safetensors")
    (folder / "device.safetensors").symlink_to("/dev/zero")
    (folder / "dangling.safetensors").symlink_to("nowhere")
    (folder / "loop.safetensors").symlink_to("loop.safetensors")
    (folder / "empty folder").mkdir()
    (folder / "folder with two").mkdir()
    for title in ("a.safetensors", "b.safetensors"):
        (folder / "folder with two" / title).write_bytes(safetensors({"w": entry()}))


def damaged(title: str, whole: bytes, count: int, random_: random.Random) -> dict[str, bytes]:
    """The file with a few random bytes changed, mostly near its ends, where the structure is."""
    files = {}
    for n in range(count):
        data = bytearray(whole)
        for _ in range(random_.choice((1, 1, 2, 8))):
            place = min(int(random_.expovariate(1 / 80)), len(data) - 1)
            data[place if random_.random() < 0.6 else -1 - place] = random_.choice(
                (0, 1, 0x7F, 0xFF, random_.randrange(256))
            )
        files[f"{title} {n}"] = bytes(data)
    return files


def write(folder: Path, canary: str) -> None:
    refuse, survive = folder / "refuse", folder / "survive"
    refuse.mkdir(parents=True)
    survive.mkdir()
    good, old = hostile_checkpoints.GOOD, hostile_checkpoints.GOOD_LEGACY
    groups = {
        "safetensors": bad_safetensors(),
        "gguf": bad_gguf(),
        "index": bad_indexes(),
        "other": other_files(),
        "attack": hostile_checkpoints.attacks(canary),
        "bomb": hostile_checkpoints.bombs(),
        "lie": {**hostile_checkpoints.lies(), **hostile_checkpoints.old_lies()},
        "zip": {f"cut at {cut}": good[:cut] for cut in range(4, len(good), 5)},
        "old": {f"cut at {cut}": old[:cut] for cut in range(4, len(old), 5)},
    }
    for group, files in groups.items():
        for number, (title, data) in enumerate(files.items()):
            safe = "".join(c if c.isalnum() or c in " -,." else "_" for c in title)[:60]
            (refuse / f"{group} {number:03} {safe}").write_bytes(data)
    special_files(refuse)
    for place in (refuse, survive):
        (place / "good.safetensors").write_bytes(safetensors({"w": entry()}))
    random_ = random.Random(0)
    quantised = gguf([gguf_tensor(sizes=(256, 2), kind=12)], data=random_.randbytes(288))
    wholes = {"safetensors": safetensors({"w": entry()}), "zip": good, "old": old, "gguf": quantised}
    for title, whole in wholes.items():
        for name, data in damaged(title, whole, 150, random_).items():
            (survive / name).write_bytes(data)


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2])
