"""Images of 16 bits and of many bands: read exactly, brought to the scale of the weights, trained on and predicted."""

import json

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import fullconv
from fullconv.cli.command import main
from fullconv.config import CONVENTIONS, InputConvention
from fullconv.data.dataset import photograph
from fullconv.datasets.open_dataset import open_dataset
from fullconv.errors import UsageError
from fullconv.inference.tensor_input import to_input
from fullconv.io.image import read_image
from fullconv.io.multispectral import Bands, bands_of, read_bands, statistics
from fullconv.training.adapt import input_of

NET = ["--backbone", "vgg11", "--stride", "16", "--width", "0.03125", "--native-size", "32"]
SHAPE = (24, 30)


def drawn(bands, kind, seed=0, shape=SHAPE):
    rng = np.random.default_rng([seed, bands])
    top = 200 if kind == "uint8" else 4000
    return np.ascontiguousarray(rng.integers(0, top, (*shape, bands)).astype(kind))


def save(path, array, layout="contig", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(array.squeeze())))
    elif layout == "imagej":
        tifffile.imwrite(path, array.transpose(2, 0, 1), imagej=True, metadata={"axes": "CYX"}, **options)
    else:
        array = array[:, :, 0] if array.shape[2] == 1 else array
        layout = None if array.ndim == 2 else layout
        stored = array if layout in (None, "contig") else np.ascontiguousarray(array.transpose(2, 0, 1))
        tifffile.imwrite(path, stored, photometric="minisblack", planarconfig=layout, **options)
    return path


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("count", [2, 4, 7])
@pytest.mark.parametrize("layout", ["contig", "separate", "imagej"])
def test_every_band_is_read_as_stored(tmp_path, count, kind, layout):
    array = drawn(count, kind)
    path = save(tmp_path / "a.tif", array, layout)
    assert bands_of(path) == Bands(count, kind)
    found = read_bands(path)
    assert found.shape == (*SHAPE, max(3, count)) and found.dtype == (np.uint8 if kind == "uint8" else np.float32)
    np.testing.assert_array_equal(found[:, :, :count], array)


@pytest.mark.parametrize("compression", ["deflate", "lzw", "zstd"])
def test_compressed_files_are_read_too(tmp_path, compression):
    array = drawn(5, "uint16")
    np.testing.assert_array_equal(read_bands(save(tmp_path / "a.tif", array, compression=compression)), array)


def test_sixteen_bits_of_colour_and_gray_are_kept(tmp_path):
    array = drawn(3, "uint16")
    for path in (save(tmp_path / "a.png", array), tmp_path / "b.tif"):
        if path.suffix == ".tif":
            tifffile.imwrite(path, array, photometric="rgb")
        assert bands_of(path) == Bands(3, "uint16")
        np.testing.assert_array_equal(read_bands(path), array)
    gray = save(tmp_path / "gray.png", array[:, :, :1])
    assert bands_of(gray) == Bands(1, "uint16") and Bands(1, "uint16").channels == 3
    np.testing.assert_array_equal(read_bands(gray), np.repeat(array[:, :, :1], 3, 2))
    two = read_bands(save(tmp_path / "two.tif", array[:, :, :2]))
    np.testing.assert_allclose(two[:, :, 2], array[:, :, :2].mean(2))


def test_photographs_are_no_bands(tmp_path):
    picture = Image.fromarray(drawn(3, "uint8"))
    for name, mode in (("a.jpg", "RGB"), ("b.png", "RGBA"), ("c.png", "L"), ("d.tif", "RGB"), ("e.tif", "RGBA"),
                       ("f.png", "P"), ("g.tif", "L")):  # fmt: skip
        picture.convert(mode).save(tmp_path / name)
        assert bands_of(tmp_path / name) is None, name
    (tmp_path / "h.tif").write_bytes(b"II*\0" + bytes(40))
    assert bands_of(tmp_path / "h.tif") is None and bands_of(tmp_path / "none.tif") is None


@given(st.data())
def test_whatever_the_bytes_there_are_bands_or_one_line(data):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = save(Path(folder) / "a.tif", drawn(4, "uint16", shape=(6, 5)), compression="deflate")
        content = bytearray(path.read_bytes())
        if data.draw(st.booleans()):
            content = content[: data.draw(st.integers(0, len(content)))]
        for _ in range(data.draw(st.integers(0, 3)) if content else 0):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        bands_of(path)
        try:
            assert read_bands(path).ndim == 3
        except UsageError as problem:
            assert "a.tif" in str(problem) and "\n" not in str(problem)


def test_a_photograph_reader_does_not_take_one_band_for_the_image(tmp_path):
    for layout in ("contig", "separate"):
        with pytest.raises(UsageError, match="bands"):
            read_image(save(tmp_path / "a.tif", drawn(4, "uint16"), layout))


@given(st.sampled_from(["caffe", "torchvision", "rgb128"]), st.integers(0, 99))
def test_each_band_is_brought_to_what_photographs_are_for_the_weights(name, seed):
    """Mean 0 after the convention, and the deviation that a photograph has."""
    import tempfile
    from pathlib import Path

    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        arrays = [
            np.rint(rng.normal((300, 2000, 90, 5000), (40, 700, 10, 1000), (20, 30, 4)).clip(0)).astype(np.uint16)
            for _ in range(4)
        ]
        for n, array in enumerate(arrays):
            save(top / "images" / f"{n}.tif", array)
            (top / "masks").mkdir(exist_ok=True)
            Image.fromarray((array[:, :, 0] > 300).astype(np.uint8)).save(top / "masks" / f"{n}.png")
        data = open_dataset(top, "train")
        found = input_of(data, CONVENTIONS[name])
        assert found.bands and found.order == CONVENTIONS[name].order and len(found.mean) == 4
        assert InputConvention.from_dict(json.loads(json.dumps(found.to_dict()))) == found
        x = to_input(torch.from_numpy(np.stack([data[i].image for i in range(len(data))])), found)
        natural = np.array([*CONVENTIONS["torchvision"].std, CONVENTIONS["torchvision"].std[2]])
        wanted = natural / np.array([*CONVENTIONS[name].std, CONVENTIONS[name].std[2]])
        np.testing.assert_allclose(x.mean((0, 2, 3)), np.zeros(4), atol=1e-3 * wanted.max())
        np.testing.assert_allclose(x.std((0, 2, 3), correction=0), wanted, rtol=1e-3)


def test_what_was_not_seen_is_the_mean(tmp_path):
    array = drawn(4, "float32")
    array[:5] = np.nan
    array[6, 0, 0] = np.inf
    path = save(tmp_path / "a.tif", array)
    mean, deviation = statistics([path])
    assert np.isfinite(mean).all() and np.isfinite(deviation).all()
    x = to_input(torch.from_numpy(read_bands(path)[None]), InputConvention("rgb", (1.0,) * 4, (2.0,) * 4))
    assert (x[0, :, :5] == 0).all() and x[0, 0, 6, 0] == 0 and torch.isfinite(x).all()
    assert photograph(read_bands(path)).dtype == np.uint8


def satellite(root, count=4, kind="uint16", images=5):
    """A folder of tiles: the class of a pixel shows in the last band alone."""
    for n in range(images):
        truth = np.random.default_rng(n).integers(0, 2, (5, 6)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        array = drawn(count, kind, seed=n, shape=truth.shape)
        array[:, :, -1] = truth.astype(int) * 3000 + 500
        save(root / "images" / f"tile_{n}.tif", array)
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(truth).save(root / "masks" / f"tile_{n}.png")
    return root


def call(capsys, *argv):
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in argv])
    out = capsys.readouterr()
    return left.value.code or 0, out.out, out.err


@pytest.mark.slow
@pytest.mark.parametrize("count, kind", [(4, "uint16"), (2, "uint16"), (6, "float32")])
def test_the_whole_way_from_tiles_to_masks(tmp_path, capsys, count, kind):
    root, run = satellite(tmp_path / "tiles", count, kind), tmp_path / "run"
    code, _, err = call(capsys, "train", root, "--out", run, *NET, "--steps", "2", "--crop", "32x32", "--scale", "1.5",
                        "--flip", "--jitter", "4")  # fmt: skip
    assert code == 0, err
    predictor = fullconv.load(run / "model.safetensors")
    assert predictor.header.input.bands and predictor.header.model.channels == max(3, count)
    assert call(capsys, "evaluate", run / "model.safetensors", root)[0] == 0
    code, out, err = call(capsys, "predict", run / "model.safetensors", root / "images", "--out", tmp_path / "masks",
                          "--overlay", "--json")  # fmt: skip
    assert code == 0 and len(json.loads(out)["written"]) == 5, err
    odd = save(tmp_path / "odd.tif", drawn(count + 3, kind))
    code, _, err = call(capsys, "predict", run / "model.safetensors", odd, "--out", tmp_path / "no")
    assert code == 2 and "odd.tif" in err and "bands" in err


def test_the_fourth_filter_is_the_mean_of_the_pretrained_three(tmp_path, capsys):
    root = satellite(tmp_path / "tiles")
    assert call(capsys, "train", root, "--out", tmp_path / "run", *NET, "--steps", "1", "--lr", "0")[0] == 0
    net = fullconv.load(tmp_path / "run" / "model.safetensors").net
    first = next(weight for name, weight in net.state_dict().items() if weight.ndim == 4)
    assert first.shape[1] == 4
    torch.testing.assert_close(first[:, 3], first[:, :3].mean(1))


def test_images_of_other_bands_among_them_are_named(tmp_path):
    root = satellite(tmp_path / "tiles")
    save(root / "images" / "tile_3.tif", drawn(5, "uint16", shape=(40, 48)))
    with pytest.raises(UsageError, match=r"5 bands of uint16.*4 bands of uint16"):
        for split in ("train", "val"):
            open_dataset(root, split)


def test_one_band_of_floats_stays_refused(tmp_path):
    root = satellite(tmp_path / "tiles", 1, "float32")
    with pytest.raises(UsageError, match="floating-point"):
        open_dataset(root, "train")[0]


def test_check_reads_bands_as_training_does(tmp_path, capsys):
    root = satellite(tmp_path / "tiles")
    code, out, _ = call(capsys, "check", root)
    assert code == 0 and "0 errors" in out
    (root / "images" / "tile_2.tif").write_bytes((root / "images" / "tile_2.tif").read_bytes()[:300])
    code, out, _ = call(capsys, "check", root)
    assert code == 2 and "tile_2.tif" in out
