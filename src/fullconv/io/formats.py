"""What a file is, told from its first bytes and never from its name.

A file that is not an image usually is something well known: a page of an error message saved under the image's name,
a pointer of git-lfs, an image in a format that is not read here. Saying so saves the reader the search.
"""

from __future__ import annotations

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
"""The formats that are decoded; everything else is refused before any decoder sees it."""

FORMAT_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "GIF": (".gif",),
}
"""The suffixes by which an image of each format is found in a folder, in lower case."""

HEAD_BYTES = 512
"""How many first bytes `sniff` wants to see."""

_CONVERT = "convert it to PNG or JPEG"
_REPLACE = "replace it with the image"

# (first bytes, what the file is, what to do)
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a git-lfs pointer, not the image itself", "run `git lfs pull` in its repository"),
    (b"%PDF", "a PDF document", _CONVERT),
    (b"%!PS", "a PostScript file", _CONVERT),
    (b"\xc5\xd0\xd3\xc6", "an EPS file", _CONVERT),
    (b"8BPS", "a Photoshop file", _CONVERT),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 file", _CONVERT),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 file", _CONVERT),
    (b"\x76\x2f\x31\x01", "an OpenEXR file", _CONVERT),
    (b"\x93NUMPY", "a NumPy array", "an array can be a mask, not an image: save it as PNG"),
    (b"\x89HDF", "an HDF5 file", "export the images to PNG"),
    (b"PK\x03\x04", "a ZIP archive", "unpack it"),
    (b"\x1f\x8b", "a gzip archive", "unpack it"),
)


def sniff(head: bytes) -> tuple[str | None, str, str]:
    """Tell a file from its first `HEAD_BYTES` bytes: (image format or None, what it is in plain words, what to do).

    >>> sniff(b"GIF89a...")[0], sniff(b"")[1], sniff(b" <!DOCTYPE html><html>")[1]
    ('GIF', 'an empty file', 'an HTML page (a failed download?)')
    """
    if not head:
        return None, "an empty file", _REPLACE
    image = _image_format(head)
    if image:
        return image, f"a {image} image", ""
    for magic, what, advice in _OTHERS:
        if head.startswith(magic):
            return None, what, advice
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc", b"avif", b"avis"):
        return None, "a HEIC or AVIF image", _CONVERT
    if head[128:132] == b"DICM":
        return None, "a DICOM file", _CONVERT
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return None, "an HTML page (a failed download?)", "download the file again"
    if b"<svg" in text:
        return None, "an SVG drawing", _CONVERT
    if _is_text(head):
        return None, "a text file, not an image", _REPLACE
    return None, "not an image in a known format", "give JPEG, PNG, WebP, BMP, TIFF, PPM or single-frame GIF"


def _image_format(head: bytes) -> str | None:
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith(b"BM"):
        return "BMP"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if head[:1] == b"P" and head[1:2] in (b"1", b"2", b"3", b"4", b"5", b"6") and head[2:3].isspace():
        return "PPM"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    return None


def _is_text(head: bytes) -> bool:
    text = head.decode("utf-8", "replace").rstrip("\ufffd")  # a character may be cut at the end of the head
    return len(text) > 3 and "\ufffd" not in text and all(c.isprintable() or c.isspace() for c in text)
