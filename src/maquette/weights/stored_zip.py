"""The table of a zip archive whose entries are stored as they are, which is what torch.save writes.

Compressed entries are refused, so no archive grows when it is read; every entry lies inside the file, and no two of
them overlap. Sizes are taken from the central directory (PKWARE APPNOTE 4.3.12), positions from the local headers.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from maquette.errors import MaquetteError
from maquette.weights.mapped_file import MappedFile, bad_file, quoted

MAX_ENTRIES = 100_000
MAX_DIRECTORY = 32 << 20

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_64 = struct.Struct("<4sIQI")
_ABSENT_32 = 0xFFFFFFFF  # "look into the 64-bit field"


class Entry(NamedTuple):
    """Where an entry's bytes lie in the file."""

    offset: int
    size: int


class _Directory(NamedTuple):
    offset: int
    size: int
    entries: int


class _Record(NamedTuple):
    name: str
    header: int  # where the local header starts
    size: int


def read_entries(file: MappedFile) -> dict[str, Entry]:
    """Every entry of the archive by its name.

    Raises:
        MaquetteError: an entry is compressed, encrypted, listed twice, overlapping or outside the file.
    """
    directory = _find_directory(file)
    entries: dict[str, Entry] = {}
    end = 0
    for record in sorted(_records(file, directory), key=lambda record: record.header):
        entry = _locate(file, record)
        if record.header < end or entry.offset + entry.size > directory.offset:
            raise _bad(file, f"entry {quoted(record.name)} overlaps another one")
        if record.name in entries:
            raise _bad(file, f"entry {quoted(record.name)} is there twice")
        end = entry.offset + entry.size
        entries[record.name] = entry
    return entries


def _bad(file: MappedFile, reason: str) -> MaquetteError:
    return bad_file(file.path, f"is a damaged zip archive: {reason}")


def _find_directory(file: MappedFile) -> _Directory:
    start = max(0, file.size - _END.size - 0xFFFF)  # the record is followed by a comment of at most 65,535 bytes
    tail = file.read(start, file.size - start)
    found = tail.rfind(b"PK\5\6")
    if found < 0 or found + _END.size > len(tail):
        raise _bad(file, "its directory at the end is missing, so it was cut short")
    _, disk, directory_disk, _, count, size, offset, _ = _END.unpack_from(tail, found)
    position = start + found
    if disk or directory_disk:
        raise _bad(file, "it is one of several volumes")
    before = position - _LOCATOR_64.size
    if before >= 0 and file.read(before, 4) == b"PK\6\7":
        _, _, position, _ = _LOCATOR_64.unpack(file.read(before, _LOCATOR_64.size))
        if position + _END_64.size > before or file.read(position, 4) != b"PK\6\6":
            raise _bad(file, "its 64-bit directory is missing")
        *_, count, size, offset = _END_64.unpack(file.read(position, _END_64.size))
    if count > MAX_ENTRIES or size > MAX_DIRECTORY:
        raise _bad(file, f"it claims {count} entries")
    if offset + size != position:
        raise _bad(file, "its directory is not where it should be")
    return _Directory(offset, size, count)


def _records(file: MappedFile, directory: _Directory) -> Iterator[_Record]:
    """The records of the central directory, each checked to be plain."""
    data = file.read(directory.offset, directory.size)
    position = 0
    for _ in range(directory.entries):
        if position + _CENTRAL.size > len(data) or data[position : position + 4] != b"PK\1\2":
            raise _bad(file, "its directory is cut short")
        fields = _CENTRAL.unpack_from(data, position)
        flags, method, packed, size, name_length, extra_length, comment_length, header = (
            *fields[3:5],
            *fields[8:13],
            fields[16],
        )
        position += _CENTRAL.size
        name = data[position : position + name_length].decode("utf-8", "replace")
        extra = data[position + name_length : position + name_length + extra_length]
        position += name_length + extra_length + comment_length
        if flags & 1:
            raise bad_file(file.path, f"entry {quoted(name)} is encrypted", "decrypt it first")
        if method != 0:
            reason = f"entry {quoted(name)} is compressed, which torch.save never does"
            raise bad_file(file.path, reason, "unpack it, or ask for a safetensors file")
        size, packed, header = _wide(file, extra, size, packed, header)
        if size != packed:
            raise _bad(file, f"entry {quoted(name)} has two sizes")
        yield _Record(name, header, size)


def _wide(file: MappedFile, extra: bytes, *values: int) -> tuple[int, ...]:
    """The values, those that are absent replaced by the 64-bit ones of the extra field 1."""
    if _ABSENT_32 not in values:
        return values
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            count = min(length, len(extra) - position - 4) // 8
            wide = iter(struct.unpack_from(f"<{count}Q", extra, position + 4))
            return tuple(next(wide, -1) if value == _ABSENT_32 else value for value in values)
        position += 4 + length
    raise _bad(file, "a 64-bit size is missing")


def _locate(file: MappedFile, record: _Record) -> Entry:
    """The entry's bytes, which follow its local header."""
    if record.header < 0 or record.size < 0 or record.header + _LOCAL.size > file.size:
        raise _bad(file, f"entry {quoted(record.name)} lies outside the file")
    local = _LOCAL.unpack(file.read(record.header, _LOCAL.size))
    if local[0] != b"PK\3\4" or local[3] != 0:
        raise _bad(file, f"entry {quoted(record.name)} has no plain header")
    offset = record.header + _LOCAL.size + local[9] + local[10]
    if offset + record.size > file.size:
        raise _bad(file, f"entry {quoted(record.name)} reaches beyond the end, so it was cut short")
    return Entry(offset, record.size)
