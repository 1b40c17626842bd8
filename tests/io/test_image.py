"""Any bytes give the right pixels or one line that names the file; what is written is what is read."""

from __future__ import annotations

import os
import pickle
import struct
import threading
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from fullconv.datasets.published.label_spaces import VOC
from fullconv.errors import FullconvError, RunError, UsageError
from fullconv.io import image as images
from fullconv.io.formats import FORMAT_SUFFIXES, IMAGE_FORMATS
from fullconv.io.image import decode_image, overlay, read_image
from fullconv.io.label_image import read_label, read_label_values, write_label
from fullconv.labels import LabelSpace

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (40, 56, 3), dtype=np.uint8)
SMOOTH = np.asarray(Image.fromarray(NOISE[:5, :7]).resize((56, 40), Image.Resampling.BICUBIC))


def encoded(array: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    picture = array if isinstance(array, Image.Image) else Image.fromarray(array)
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def refused(tmp_path: Path, content: bytes, *words: str, name: str = "a.jpg", **options: int) -> str:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_image(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "; " in message and "\n" not in message
    for word in words:
        assert word in message
    return message


# -- images ------------------------------------------------------------------------------------------------------------


PALETTE = Image.fromarray(SMOOTH).quantize(16)
GRAY = SMOOTH[:, :, 0]
SAME_PIXELS = {  # how a picture is stored -> (the bytes, the RGB pixels to come out)
    "png": (encoded(SMOOTH, "PNG"), SMOOTH),
    "bmp": (encoded(SMOOTH, "BMP"), SMOOTH),
    "tiff": (encoded(SMOOTH, "TIFF"), SMOOTH),
    "tiff lzw": (encoded(SMOOTH, "TIFF", compression="tiff_lzw"), SMOOTH),
    "ppm": (encoded(SMOOTH, "PPM"), SMOOTH),
    "webp lossless": (encoded(SMOOTH, "WEBP", lossless=True), SMOOTH),
    "opaque alpha": (encoded(np.dstack([SMOOTH, np.full(GRAY.shape, 255, np.uint8)]), "PNG"), SMOOTH),
    "gray png": (encoded(GRAY, "PNG"), np.dstack([GRAY] * 3)),
    "gray 16-bit png": (encoded(GRAY.astype(np.uint16) * 257, "PNG"), np.dstack([GRAY] * 3)),
    "gray 16-bit tiff": (encoded(GRAY.astype(np.uint16) * 257, "TIFF"), np.dstack([GRAY] * 3)),
    "gray 16-bit pgm": (b"P5 56 40 65535\n" + (GRAY.astype(">u2") * 257).tobytes(), np.dstack([GRAY] * 3)),
    "palette png": (encoded(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB"))),
    "palette gif": (encoded(PALETTE, "GIF"), np.asarray(PALETTE.convert("RGB"))),
    "1-bit png": (encoded(GRAY > 127, "PNG"), np.dstack([np.uint8(GRAY > 127) * 255] * 3)),
    "cmyk tiff": (encoded(Image.fromarray(SMOOTH).convert("CMYK"), "TIFF"), SMOOTH),
}


@pytest.mark.parametrize("name", SAME_PIXELS)
def test_one_picture_has_the_same_pixels_in_every_lossless_encoding(name: str) -> None:
    content, pixels = SAME_PIXELS[name]
    image = decode_image(BytesIO(content), name)
    assert image.dtype == np.uint8 and image.flags.writeable and image.flags.c_contiguous
    np.testing.assert_array_equal(image, pixels)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {"quality": 95}), ("JPEG", {"quality": 95, "progressive": True}), ("WEBP", {"quality": 95})],
)
def test_lossy_encodings_stay_near(kind: str, options: dict[str, int]) -> None:
    image = decode_image(BytesIO(encoded(SMOOTH, kind, **options)), kind)
    assert np.abs(image.astype(int) - SMOOTH).mean() < 4


def test_cmyk_jpeg_is_near_the_rgb_original() -> None:
    content = encoded(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decode_image(BytesIO(content), "cmyk").astype(int) - SMOOTH).mean() <= 6


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_what_is_transparent_is_white(kind: str) -> None:
    alpha = np.full(GRAY.shape, 255, np.uint8)
    alpha[:, :20] = 0
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    image = decode_image(BytesIO(encoded(np.dstack([SMOOTH, alpha]), kind, **options)), kind)
    assert (image[:, :20] == 255).all()
    np.testing.assert_array_equal(image[:, 20:], SMOOTH[:, 20:])


def test_transparent_gray_and_palette_follow_the_same_rule() -> None:
    half = Image.fromarray(np.dstack([GRAY, np.uint8(GRAY > 127) * 255]))
    np.testing.assert_array_equal(
        decode_image(BytesIO(encoded(half, "PNG")), "LA"), np.dstack([np.where(GRAY > 127, GRAY, 255)] * 3)
    )
    indices = np.asarray(PALETTE)
    seen = decode_image(BytesIO(encoded(PALETTE, "PNG", transparency=3)), "P")
    np.testing.assert_array_equal(seen, np.where((indices == 3)[..., None], 255, PALETTE.convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = encoded(SMOOTH, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    plain = Image.fromarray(
        decode_image(BytesIO(encoded(SMOOTH, kind, **({"lossless": True} if kind == "WEBP" else {}))), "")
    )
    plain.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(plain))
    np.testing.assert_array_equal(decode_image(BytesIO(stored), kind), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_the_smallest_images(size: tuple[int, int]) -> None:
    assert decode_image(BytesIO(encoded(np.zeros((*size, 3), np.uint8), "PNG")), "small").shape == (*size, 3)


def test_the_content_decides_and_not_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(SMOOTH, "PNG"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), SMOOTH)


def test_every_format_has_a_decoder_and_suffixes() -> None:
    from fullconv.io.decoding import _DECODERS

    assert set(_DECODERS) == set(IMAGE_FORMATS) == set(FORMAT_SUFFIXES)


def test_a_multi_picture_jpeg_is_read_as_its_main_picture() -> None:
    content = encoded(Image.fromarray(SMOOTH), "MPO", save_all=True, append_images=[Image.fromarray(NOISE)])
    assert np.abs(decode_image(BytesIO(content), "phone.jpg").astype(int) - SMOOTH).mean() < 8


JPEG, PNG = encoded(SMOOTH, "JPEG"), encoded(NOISE, "PNG")
FRAMES = [Image.fromarray(NOISE), Image.fromarray(SMOOTH)]
ANIMATED = {"save_all": True, "append_images": FRAMES[1:]}
FLIPPED = PNG[:900] + bytes([PNG[900] ^ 8]) + PNG[901:]
REFUSED: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "empty": (b"", ("empty file",)),
    "one byte": (b"x", ("not an image",)),
    "text": (b"hello there, this is no picture\n", ("text file", "not an image")),
    "html": (b"\n<!DOCTYPE html>\n<html><title>404</title>", ("HTML", "failed download")),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", ("git-lfs", "git lfs pull")),
    "pdf": (b"%PDF-1.7 ...", ("PDF",)),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", ("PostScript",)),
    "svg": (b'<?xml version="1.0"?><svg width="3"/>', ("SVG",)),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", ("HEIC",)),
    "zip": (b"PK\x03\x04" + bytes(40), ("ZIP",)),
    "numpy": (b"\x93NUMPY\x01\0" + bytes(40), ("NumPy",)),
    "half jpeg": (JPEG[: len(JPEG) // 2], ("cut short",)),
    "half png": (PNG[: len(PNG) // 2], ("cut short",)),
    "bit flip in png": (FLIPPED, ("damaged",)),
    "head only": (PNG[:20], ("image is",)),
    "zero width": (png(0, 5, 8, 0, b""), ("damaged",)),
    "float tiff": (encoded(np.ones((4, 4), np.float32), "TIFF"), ("floating-point",)),
    "int32 tiff": (encoded(np.full((4, 4), 70000, np.int32), "TIFF"), ("32-bit",)),
    "lab tiff": (encoded(Image.new("LAB", (4, 4)), "TIFF"), ("LAB",)),
    "animated gif": (
        encoded(FRAMES[0].quantize(8), "GIF", save_all=True, append_images=[FRAMES[1].quantize(8)]),
        ("2 frames",),
    ),
    "animated webp": (encoded(FRAMES[0], "WEBP", **ANIMATED), ("animation",)),
    "animated png": (encoded(FRAMES[0], "PNG", **ANIMATED), ("animation",)),
    "pages": (encoded(FRAMES[0], "TIFF", **ANIMATED), ("2 pages",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    content, words = REFUSED[name]
    refused(tmp_path, content, *words)


def test_missing_folder_pipe_and_null_byte(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path, words in [
        ("none.png", "no such file"),
        (".", "a folder"),
        ("pipe.png", "not a regular"),
        ("a\0b", "a\\x00b"),
    ]:
        with pytest.raises(UsageError, match=words.replace("\\", "\\\\")):
            read_image(tmp_path / path)


@pytest.mark.parametrize(
    "name", [b"caf\xe9.png", "图像.png".encode(), b"two\nlines.png", b"-dash.png", b"q'\".png", b"n" * 240 + b".png"]
)
def test_odd_names_are_read_written_and_shown_in_one_line(name: bytes, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(name)
    write_label(path, np.eye(3, dtype=np.uint8), VOC)
    assert [os.fsencode(p.name) for p in tmp_path.iterdir()] == [name]
    assert (read_label_values(path) == np.eye(3)).all()
    path.write_bytes(b"")
    with pytest.raises(UsageError, match="empty file") as caught:
        read_image(path)
    assert str(caught.value).isprintable() and str(caught.value).encode()


@pytest.mark.parametrize(
    ("content", "limit"),
    [
        (png(16000, 16000, 1, 0, b""), 178_000_000),
        (png(60000, 60000, 8, 2, b""), 178_000_000),
        (png(2**31 - 1, 2**31 - 1, 8, 2, b""), 10**9),
        (b"P6 20000 20000 255\n", 178_000_000),
        (encoded(SMOOTH, "JPEG"), 40 * 56 - 1),
        (encoded(SMOOTH, "WEBP"), 40 * 56 - 1),
        (encoded(SMOOTH, "TIFF"), 40 * 56 - 1),
        (encoded(PALETTE, "GIF"), 40 * 56 - 1),
    ],
)
def test_the_size_in_the_header_is_checked_before_anything_is_decoded(
    content: bytes, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    refused(tmp_path, content, "pixels", "--max-pixels", max_pixels=limit)


def test_a_raised_limit_reaches_above_the_limit_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # as if the picture were far above it
    np.testing.assert_array_equal(decode_image(BytesIO(encoded(SMOOTH, "PNG")), "big"), SMOOTH)
    with pytest.raises(UsageError, match="refuses a picture of this size"):
        decode_image(BytesIO(encoded(SMOOTH, "TIFF")), "big.tif")


WHOLE = {
    "jpeg": encoded(SMOOTH, "JPEG"),
    "progressive jpeg": encoded(SMOOTH, "JPEG", progressive=True),
    "png": encoded(SMOOTH, "PNG"),
    "webp": encoded(SMOOTH, "WEBP"),
    "webp lossless": encoded(SMOOTH, "WEBP", lossless=True),
    "bmp": encoded(SMOOTH, "BMP"),
    "tiff": encoded(SMOOTH, "TIFF"),
    "tiff lzw": encoded(SMOOTH, "TIFF", compression="tiff_lzw"),
    "tiff deflate": encoded(SMOOTH, "TIFF", compression="tiff_adobe_deflate"),
    "tiff jpeg": encoded(SMOOTH, "TIFF", compression="jpeg"),
    "ppm": encoded(SMOOTH, "PPM"),
    "plain ppm": b"P2 4 4 255\n" + b" ".join(b"%d" % (v % 10) for v in range(16)) + b"\n",
    "gif": encoded(PALETTE, "GIF"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_cut_anywhere_is_refused_or_whole(name: str) -> None:
    whole = WHOLE[name]
    pixels = decode_image(BytesIO(whole), name)
    cuts = sorted({int(c) for c in np.linspace(1, len(whole) - 1, 60)} | set(range(len(whole) - 16, len(whole))))
    for cut in cuts:
        try:
            image = decode_image(BytesIO(whole[:cut]), name)
        except UsageError:
            continue
        np.testing.assert_array_equal(image, pixels, err_msg=f"cut at {cut} of {len(whole)}")


def test_a_png_without_its_end_mark_is_whole() -> None:
    np.testing.assert_array_equal(decode_image(BytesIO(PNG[:-12]), "no IEND"), NOISE)


def test_a_tiff_whose_strips_do_not_fill_it_is_refused(tmp_path: Path) -> None:
    content = encoded(GRAY, "TIFF")
    height, taller = (struct.pack("<HHII", 257, 4, 1, n) for n in (40, 400))
    rows, fewer = (struct.pack("<HHII", 278, 4, 1, n) for n in (40, 40))
    short = (struct.pack("<HHIHH", 257, 3, 1, n, 0) for n in (40, 400))
    changed = content.replace(height, taller).replace(rows, fewer).replace(*short)
    assert changed != content
    refused(tmp_path, changed, "strips are missing")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.integers(0, 2**32), st.integers(1, 12), st.booleans())
def test_mutated_files_give_pixels_or_one_line(name: str, seed: int, flips: int, as_label: bool) -> None:
    rng = np.random.default_rng(seed)
    content = bytearray(WHOLE[name])
    for at in rng.integers(0, min(len(content), int(rng.choice([64, 600, 10**6]))), flips):
        content[at] = rng.integers(256)
    try:
        image = decode_image(BytesIO(content), "mutant", max_pixels=10**6)
        assert image.dtype == np.uint8 and image.ndim == 3
    except UsageError as error:
        assert str(error).startswith("mutant: ") and str(error).isprintable()


def test_nothing_global_is_changed() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    threads = [threading.Thread(target=decode_image, args=(BytesIO(WHOLE["tiff"]), "t")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)) == before


# -- labels ------------------------------------------------------------------------------------------------------------


INDICES = RNG.integers(0, 12, (13, 17), dtype=np.uint8)


def label(tmp_path: Path, content: bytes, name: str = "m.png") -> np.ndarray:
    (tmp_path / name).write_bytes(content)
    return read_label_values(tmp_path / name)


def with_palette(indices: np.ndarray) -> Image.Image:
    picture = Image.fromarray(indices)
    picture.putpalette(VOC.flat_palette())
    return picture


def npy(array: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("gray.png", encoded(INDICES, "PNG")),
        ("palette.png", encoded(with_palette(INDICES), "PNG")),
        ("palette4.png", encoded(with_palette(INDICES), "PNG", bits=4)),
        ("palette.gif", encoded(with_palette(INDICES), "GIF")),
        ("palette.bmp", encoded(with_palette(INDICES), "BMP")),
        ("palette.tif", encoded(with_palette(INDICES), "TIFF")),
        ("sixteen.png", encoded(INDICES.astype(np.uint16), "PNG")),
        ("sixteen.tif", encoded(INDICES.astype(np.uint16), "TIFF")),
        ("int.tif", encoded(INDICES.astype(np.int32), "TIFF")),
        ("float.tif", encoded(INDICES.astype(np.float32), "TIFF")),
        ("alpha.png", encoded(np.dstack([INDICES, np.full_like(INDICES, 9)]), "PNG")),
        ("a.npy", npy(INDICES)),
        ("b.npy", npy(INDICES.astype(">i8"))),
        ("c.npy", npy(np.asfortranarray(INDICES))),
        ("d.npy", npy(INDICES.astype(np.float64))),
    ],
)
def test_label_values_are_read_exactly(name: str, content: bytes, tmp_path: Path) -> None:
    values = label(tmp_path, content, name)
    assert np.issubdtype(values.dtype, np.integer) and values.dtype.isnative
    np.testing.assert_array_equal(values, INDICES)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("colour", [0, 3])
def test_few_bits_are_not_stretched(bits: int, colour: int, tmp_path: Path) -> None:
    values = np.arange(2**bits)
    packed = np.packbits(((values[:, None] >> np.arange(bits)[::-1]) & 1).astype(np.uint8).ravel()).tobytes()
    content = png(2**bits, 1, bits, colour, b"\0" + packed)
    if colour == 3:
        palette = b"PLTE" + bytes(range(3 * 2**bits))
        content = (
            content[:33]
            + struct.pack(">I", len(palette) - 4)
            + palette
            + struct.pack(">I", zlib.crc32(palette))
            + content[33:]
        )
    np.testing.assert_array_equal(label(tmp_path, content)[0], values)


def test_large_values_and_colours(tmp_path: Path) -> None:
    wide = np.array([[0, 1000, 65535]], np.uint16)
    np.testing.assert_array_equal(label(tmp_path, encoded(wide, "PNG")), wide)
    np.testing.assert_array_equal(label(tmp_path, encoded(NOISE, "PNG")), NOISE)
    alpha = np.dstack([NOISE, np.zeros(NOISE.shape[:2], np.uint8)])
    np.testing.assert_array_equal(label(tmp_path, encoded(alpha, "PNG")), NOISE)


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("m.png", encoded(SMOOTH, "JPEG"), "JPEG changes label values"),
        ("m.png", encoded(SMOOTH, "WEBP"), "WEBP changes label values"),
        ("m.png", b"", "empty file"),
        ("m.png", encoded(INDICES, "PNG")[:60], "image is"),
        ("m.png", png(2, 1, 16, 2, bytes(13)), "16 bits in each"),
        ("m.tif", encoded(np.full((2, 2), 0.5, np.float32), "TIFF"), "no whole number"),
        ("nan.npy", npy(np.array([[1.0, np.nan]])), "nan at x=1 y=0"),
        ("inf.npy", npy(np.array([[np.inf]])), "no whole number"),
        ("half.npy", npy(np.array([[0.5]])), "0.5 at x=0 y=0"),
        ("cube.npy", npy(np.zeros((2, 3, 4), np.uint8)), "(2, 3, 4)"),
        ("complex.npy", npy(np.zeros((2, 3), complex)), "complex128"),
        ("short.npy", npy(np.zeros((20, 30)))[:-9], "damaged"),
        ("lie.npy", npy(np.zeros((10, 10))).replace(b"(10, 10)", b"(10, 99)"), "damaged"),
        ("text.npy", b"hello hello hello", "text file"),
        ("empty.npy", b"", "empty file"),
    ],
)
def test_what_is_no_label_is_refused(name: str, content: bytes, word: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        label(tmp_path, content, name)
    assert word in str(caught.value) and str(caught.value).startswith(str(tmp_path / name))


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("trap-was-sprung",)


def test_a_pickle_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    objects = BytesIO()
    np.save(objects, np.array([[Trap()]], dtype=object), allow_pickle=True)
    for content in (pickle.dumps(Trap()), objects.getvalue()):
        with pytest.raises(UsageError):
            label(tmp_path, content, "m.npy")
    assert not (tmp_path / "trap-was-sprung").exists()


# -- writing -----------------------------------------------------------------------------------------------------------


MANY = LabelSpace.of([f"class{i}" for i in range(300)], ignore_index=65535)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 999), many=st.booleans())
def test_a_label_is_read_as_it_was_written(height: int, width: int, seed: int, many: bool, tmp_path: Path) -> None:
    space = MANY if many else VOC
    dtype = np.int64 if seed % 2 else np.uint16
    array = np.random.default_rng(seed).integers(0, 65536 if many else 256, (height, width)).astype(dtype)
    write_label(tmp_path / "a.png", array, space)
    file = read_label(tmp_path / "a.png")
    np.testing.assert_array_equal(file.values, array)
    assert file.palette == (None if many else bytes(VOC.flat_palette()))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_value_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    for bad in (np.array([[-1]]), np.array([[256]]), np.array([[0.5]]), np.zeros(3, int), np.zeros((0, 3), int)):
        with pytest.raises(UsageError, match=r"a\.png"):
            write_label(tmp_path / "a.png", bad, VOC)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    write_label(path, np.ones((2, 2), int), VOC)

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RunError, match="No space left"):
        write_label(path, np.zeros((2, 2), int), VOC)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"] and (read_label_values(path) == 1).all()
    with pytest.raises(FullconvError, match="none"):
        write_label(tmp_path / "none" / "a.png", np.zeros((2, 2), int), VOC)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_overlay_is_the_blend_of_image_and_colours(alpha: float) -> None:
    prediction = RNG.integers(0, 21, NOISE.shape[:2])
    prediction[:3] = 255
    out = overlay(NOISE, prediction, VOC, alpha)
    colours = np.array(VOC.palette)[np.where(prediction == 255, 0, prediction)]
    drawn = (prediction > 0) & (prediction != 255)
    expected = np.where(drawn[..., None], (1 - alpha) * NOISE + alpha * colours, NOISE)
    assert np.abs(out - expected).max() <= 1
    np.testing.assert_array_equal(out[~drawn], NOISE[~drawn])


def test_a_first_class_that_is_no_background_is_drawn() -> None:
    road = LabelSpace.of(["road", "sky"], [(9, 8, 7), (1, 2, 3)])
    assert overlay(np.zeros((1, 1, 3), np.uint8), np.array([[0]]), road, 1.0).tolist() == [[[9, 8, 7]]]


def test_overlay_refuses_sizes_that_differ_and_is_written_as_jpeg(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="differ"):
        overlay(NOISE, np.zeros((3, 3), int), VOC)
    images.write_overlay(tmp_path / "a.overlay.jpg", NOISE, np.ones(NOISE.shape[:2], int), VOC)
    assert (tmp_path / "a.overlay.jpg").read_bytes()[:3] == b"\xff\xd8\xff"
    assert read_image(tmp_path / "a.overlay.jpg").shape == NOISE.shape
