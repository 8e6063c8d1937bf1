"""Texts in EXIF, where JPEG and WebP pictures carry what PNG pictures carry as texts of their own."""

from PIL import ExifTags, Image

PREFIX = 8  # bytes in front of a user comment, which name its encoding
_NAMED = ("prompt", "workflow")  # ComfyUI writes "prompt:{...}" into whatever tag is free


def read_exif(exif: Image.Exif) -> dict[str, str]:
    """The user comment as `parameters`, as A1111 writes it, and ComfyUI's texts by their names."""
    texts = {}
    comment = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if isinstance(comment, bytes):
        texts["parameters"] = decode_comment(comment)
    elif isinstance(comment, str):
        texts["parameters"] = comment
    for value in exif.values():
        name, colon, told = value.partition(":") if isinstance(value, str) else ("", "", "")
        if colon and name in _NAMED:
            texts[name] = told
    return texts


def decode_comment(comment: bytes) -> str:
    """The words of a user comment; UTF-16 without a mark may have either order of bytes, and both are written."""
    prefix, words = comment[:PREFIX], comment[PREFIX:]
    if prefix != b"UNICODE\0":
        return words.decode("utf-8", "replace").strip("\0")
    if words[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return words.decode("utf-16", "replace")
    readings = [words.decode(encoding, "replace") for encoding in ("utf-16-be", "utf-16-le")]
    return max(readings, key=lambda text: sum(c.isascii() for c in text))
