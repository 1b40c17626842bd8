"""Images by windows are the images as they are decoded; label files by rows are those written at once."""

import errno

import numpy as np
import pytest
from PIL import Image

from fullconv.errors import RunError, UsageError
from fullconv.io import image as images
from fullconv.io import row_writer as rowwise
from fullconv.io.image import read_image
from fullconv.io.label_image import read_label, write_label
from fullconv.io.multispectral import read_bands
from fullconv.io.row_writer import row_writer
from fullconv.io.windowed import Decoded, Windows, open_source, outline
from fullconv.labels import LabelSpace

rasterio = pytest.importorskip("rasterio")


def geotiff(path, array, **more):
    """A GeoTIFF of (bands, H, W) in the north of Europe."""
    transform = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
    settings = {"crs": "EPSG:32633", "transform": transform, "tiled": True, "blockxsize": 32, "blockysize": 32, **more}
    with rasterio.open(path, "w", driver="GTiff", height=array.shape[1], width=array.shape[2], count=len(array),
                       dtype=array.dtype, **settings) as file:  # fmt: skip
        file.write(array)
    return path


def pixels(shape, kind=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(kind).max, shape, kind)


def gathered(path, bands, channels, rows):
    with open_source(path, bands, channels) as source:
        parts = [source.rows(top, min(source.height, top + rows)).copy() for top in range(0, source.height, rows)]
        return type(source), np.concatenate(parts)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("layout", [{}, {"tiled": False, "blockxsize": None, "blockysize": 7}, {"compress": "deflate"},
                                    {"BIGTIFF": "YES"}, {"interleave": "pixel"}], ids=str)  # fmt: skip
def test_a_photograph_by_windows_is_the_photograph(tmp_path, count, layout):
    layout = {key: value for key, value in layout.items() if value is not None}
    if layout.get("tiled") is False:
        layout["blockxsize"] = 45
    more = {"photometric": "RGB"} if count == 3 else {}
    path = geotiff(tmp_path / "a.tif", pixels((count, 70, 45)), **more, **layout)
    kind, found = gathered(path, False, 3, 32)
    assert kind is Windows
    assert (found == read_image(path)).all()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_bands_by_windows_are_the_bands(tmp_path, kind, count):
    path = geotiff(tmp_path / "a.tif", pixels((count, 70, 45), kind), photometric="minisblack")
    read, found = gathered(path, True, max(3, count), 32)
    whole = read_bands(path)
    assert read is Windows
    assert found.dtype == whole.dtype and (found == whole).all()


@pytest.mark.parametrize("mode", ["RGBA", "P", "I;16", "1", "CMYK"])
def test_what_windows_would_show_otherwise_is_decoded(tmp_path, mode):
    picture = Image.fromarray(pixels((40, 30, 3)))
    picture = Image.fromarray(pixels((40, 30), np.uint16)) if mode == "I;16" else picture.convert(mode)
    picture.save(tmp_path / "a.tif")
    kind, found = gathered(tmp_path / "a.tif", False, 3, 16)
    assert kind is Decoded
    assert (found == read_image(tmp_path / "a.tif")).all()


def test_an_outline_needs_no_pixels(tmp_path):
    Image.fromarray(pixels((40, 30, 3))).save(tmp_path / "a.jpg", exif=bytes.fromhex(
        "45786966000049492a000800000001001201030001000000060000000000"))  # fmt: skip
    found = outline(tmp_path / "a.jpg", bands=False)
    assert (found.height, found.width) == read_image(tmp_path / "a.jpg").shape[:2] == (30, 40)
    with pytest.raises(UsageError, match=r"1,200 pixels, above the limit of 1,000; raise --max-pixels"):
        outline(tmp_path / "a.jpg", bands=False, max_pixels=1000)


def test_the_limit_is_one_of_what_is_decoded_at_a_time(tmp_path):
    path = geotiff(tmp_path / "a.tif", pixels((3, 70, 45)), photometric="RGB")
    with open_source(path, False, 3, max_pixels=45 * 10) as source:
        assert source.rows(3, 13).shape == (10, 45, 3)
        with pytest.raises(UsageError, match="above the limit"):
            source.rows(0, 70)


def test_several_pages_and_wrong_bands_are_refused_in_a_line(tmp_path):
    page = Image.fromarray(pixels((20, 30, 3)))
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
    for bands in (False, True):
        with pytest.raises(UsageError, match="pages"), open_source(tmp_path / "pages.tif", bands, 3):
            pass
    path = geotiff(tmp_path / "a.tif", pixels((5, 20, 30), np.uint16))
    with pytest.raises(UsageError, match=r"a.tif: 5 bands, and this net takes 4"), open_source(path, True, 4):
        pass


def test_damaged_blocks_are_one_line(tmp_path):
    path = geotiff(tmp_path / "a.tif", pixels((3, 200, 200)), photometric="RGB", compress="deflate")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"a.tif: the image is damaged"), open_source(path, False, 3) as source:
        source.rows(0, 200)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "I;16", "LA", "1"])
def test_a_large_photo_is_converted_in_bands(tmp_path, monkeypatch, mode):
    picture = Image.fromarray(pixels((41, 30, 4)), "RGBA") if mode == "RGBA" else Image.fromarray(pixels((41, 30, 3)))
    picture = Image.fromarray(pixels((41, 30), np.uint16)) if mode == "I;16" else picture.convert(mode)
    picture.save(tmp_path / "a.png", **({"transparency": 3} if mode == "P" else {}))
    whole = read_image(tmp_path / "a.png")
    monkeypatch.setattr(images, "BAND", 200)
    assert (read_image(tmp_path / "a.png") == whole).all()


def space(classes):
    return LabelSpace.of([str(number) for number in range(classes)], ignore_index=255 if classes < 255 else 65535)


@pytest.mark.parametrize("classes", [5, 256, 300])
@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (70, 1), (101, 77)])
@pytest.mark.parametrize("rows", [1, 30])
def test_rows_are_the_file_written_at_once(tmp_path, classes, shape, rows):
    labels = np.random.default_rng(0).integers(0, classes, shape).astype(np.uint8 if classes <= 256 else np.int32)
    write_label(tmp_path / "whole.png", labels, space(classes))
    for name in ("rows.png", "rows.tif"):
        with row_writer(tmp_path / name, *shape, space(classes)) as writer:
            for top in range(0, shape[0], rows):
                assert not (tmp_path / name).exists()
                writer.write(labels[top : top + rows])
    whole, found = read_label(tmp_path / "whole.png"), read_label(tmp_path / "rows.png")
    assert (whole.values == found.values).all() and whole.values.dtype == found.values.dtype
    assert whole.palette == found.palette
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(tmp_path / "rows.tif") as file:
        assert (file.read(1) == labels).all()
        assert file.nodata == (None if classes == 256 else space(classes).ignore_index)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.png", "rows.tif", "whole.png"]


def test_large_pieces_become_several_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(rowwise, "CHUNK", 100)
    labels = pixels((600, 600)) % 5
    with row_writer(tmp_path / "a.png", 600, 600, space(5)) as writer:
        for row in labels:
            writer.write(row[None])
    assert (tmp_path / "a.png").read_bytes().count(b"IDAT") > 2
    assert (read_label(tmp_path / "a.png").values == labels).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_file_appears_whole_or_not_at_all(tmp_path, suffix):
    with pytest.raises(KeyError), row_writer(tmp_path / f"a.{suffix}", 9, 9, space(3)) as writer:
        writer.write(np.zeros((5, 9), np.uint8))
        raise KeyError
    assert not list(tmp_path.iterdir())
    with pytest.raises(RunError, match=rf"a.{suffix}: cannot be written .*; check the folder"):
        row_writer(tmp_path / "missing" / f"a.{suffix}", 9, 9, space(3)).__enter__()


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    writer = row_writer(tmp_path / "a.png", 9, 9, space(3))
    with (
        pytest.raises(RunError, match=r"a.png: cannot be written \(No space left on device\); check the folder"),
        writer,
    ):
        writer.file.close()
        writer.file = Full()
        writer.write(np.zeros((9, 9), np.uint8))
        writer.__exit__(None, None, None)
    assert not list(tmp_path.iterdir())


def test_labels_keep_their_place(tmp_path):
    source = geotiff(tmp_path / "a.tif", pixels((3, 70, 45)), photometric="RGB")
    with open_source(source, False, 3) as image, row_writer(
        tmp_path / "b.tif", 70, 45, space(5), image.place
    ) as writer:  # fmt: skip
        writer.write(np.ones((70, 45), np.uint8))
    with rasterio.open(source) as before, rasterio.open(tmp_path / "b.tif") as after:
        assert (before.crs, before.transform) == (after.crs, after.transform)
        assert after.colormap(1)[1][:3] == space(5).palette[1]
        assert after.profile["compress"] == "deflate" and after.profile["tiled"]


def test_an_error_of_gdal_is_one_line(tmp_path):
    """The tag of the pixel scale (33550) becomes that of the texts (34737), which GDAL then misses."""
    path = geotiff(tmp_path / "a.tif", pixels((4, 40, 52)))
    data = bytearray(path.read_bytes())
    (place,) = (at for at in range(8, len(data) - 4, 2) if data[at : at + 4] == b"\x0e\x83\x0c\x00")
    data[place : place + 2] = (34737).to_bytes(2, "little")
    path.write_bytes(data)
    for bands in (True, False):
        with pytest.raises(UsageError, match=r"a\.tif: the image is damaged \(.*GeoAsciiParams.*\); copy") as caught:
            outline(path, bands)
        assert "\n" not in str(caught.value)


def test_a_damaged_header_is_one_line_or_its_pixels(tmp_path):
    whole = geotiff(tmp_path / "whole.tif", pixels((4, 40, 52)), photometric="RGB", alpha="yes").read_bytes()
    rng, path, refused = np.random.default_rng(3), tmp_path / "a.tif", 0
    for _ in range(100):
        data = bytearray(whole)
        for place in rng.integers(8, 700, rng.integers(1, 4)):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        for bands in (True, False):
            try:
                outline(path, bands)
                with open_source(path, bands, 3) as source:
                    source.rows(0, min(8, source.height))
            except UsageError as problem:
                refused += 1
                assert "\n" not in str(problem) and str(path) in str(problem)
    assert 20 < refused < 200
