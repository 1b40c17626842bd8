"""HHA of rooms whose geometry is known: ray-cast floors, walls, ceilings and boxes, seen by a tilted camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fullconv.datasets import hha as module
from fullconv.datasets.depth_geometry import NYUD, Camera, gravity, normals, points
from fullconv.datasets.hha import encode_folder, geocentric, hha
from fullconv.errors import FullconvError, RunError, UsageError

SMALL, SIZE = NYUD.scaled(1 / 4), (120, 160)  # the field of view of 480x640
TINY, TINY_SIZE = NYUD.scaled(1 / 8), (60, 80)
FLOOR, CEILING, WALL, BOX = 0, 1, 2, 6  # planes of `render`; 3 to 5 are the other walls, 6 to 8 the sides of the box
EYE = 1.3  # the camera is so high above the floor, in metres
TILTS = st.tuples(st.floats(-30, 30), st.floats(-30, 30), st.floats(-40, 40))  # pitch, roll, yaw in degrees


@dataclass
class Scene:
    depth: np.ndarray  # (H, W) metres
    plane: np.ndarray  # (H, W) which plane a pixel shows
    normal: np.ndarray  # (H, W, 3) in the frame of the camera
    down: np.ndarray  # (3,) gravity in the frame of the camera
    height: np.ndarray  # (H, W) metres above the floor

    def inner(self, radius):
        """Where the window of a fit sees one plane only."""
        same = np.ones(self.plane.shape, dtype=bool)
        padded = np.pad(self.plane, radius, mode="edge")
        for dy in range(2 * radius + 1):
            for dx in range(2 * radius + 1):
                same &= padded[dy : dy + len(same), dx : dx + same.shape[1]] == self.plane
        return same


def turned(pitch, roll, yaw):
    """The rotation from the room (x right, y down, z forward) to the camera, by degrees."""
    (cp, cr, cy), (sp, sr, sy) = np.cos(np.radians([pitch, roll, yaw])), np.sin(np.radians([pitch, roll, yaw]))
    x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return z @ x @ y


def render(pitch=0.0, roll=0.0, yaw=0.0, camera=SMALL, size=SIZE, eye=EYE):
    """A room of 4.2 x 2.5 x 5 metres and a box of 1 x 0.6 x 0.6 on its floor, seen from within."""
    rotation = turned(pitch, roll, yaw)
    y, x = np.mgrid[: size[0], : size[1]]
    rays = np.stack([(x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy, np.ones(size)], axis=2)
    world = rays @ rotation  # the transpose turns back
    with np.errstate(divide="ignore", invalid="ignore"):
        planes = [(1, eye), (1, eye - 2.5), (2, 4.0), (0, -2.0), (0, 2.2), (2, -1.0)]  # axis, offset
        outward = np.array([[0, 1, 0], [0, -1, 0], [0, 0, 1], [-1, 0, 0], [1, 0, 0], [0, 0, -1]], dtype=float)
        hits = np.stack([offset / world[:, :, axis] for axis, offset in planes], axis=2)
        hits[~(hits > 0)] = np.inf
        which, depth = hits.argmin(axis=2), hits.min(axis=2)
        normal = outward[which]
        low, high = np.array([-0.6, eye - 0.6, 2.0]), np.array([0.4, eye, 2.6])
        ends = np.stack([low / world, high / world], axis=0)
    enter, leave = ends.min(axis=0), ends.max(axis=0).min(axis=2)
    near, side = enter.max(axis=2), enter.argmax(axis=2)
    seen = (near < leave) & (near > 0) & (near < depth)
    facing = np.eye(3)[side] * np.sign(np.take_along_axis(world, side[:, :, None], axis=2))
    depth, normal = np.where(seen, near, depth), np.where(seen[:, :, None], facing, normal)
    which = np.where(seen, BOX + side, which)
    height = eye - world[:, :, 1] * depth
    return Scene(depth, which, normal @ rotation.T, rotation @ [0.0, 1.0, 0.0], height)


def degrees_between(a, b):
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b)), np.dot(a, b))))


def kinect(depth, seed=0, times=1.0):
    """Depth with the axial noise of a Kinect: 1.2 mm + 1.9 mm (z - 0.4 m)^2 (Nguyen, Izadi and Lovell, 2012)."""
    deviation = times * (0.0012 + 0.0019 * (depth - 0.4) ** 2)
    return depth + deviation * np.random.default_rng(seed).standard_normal(depth.shape)


def found(scene, depth=None, camera=SMALL, missing=None):
    """The direction of gravity as `hha` finds it."""
    return gravity(normals(points(scene.depth if depth is None else depth, camera), missing, radius=10))


# -- the camera and the points -----------------------------------------------------------------------------------------


def test_the_camera_of_nyud_counts_from_zero():
    assert (NYUD.fx, NYUD.fy) == (518.857901, 519.469611)
    assert (NYUD.cx + 1, NYUD.cy + 1) == pytest.approx((325.582449, 253.736166))


def test_a_crop_and_a_resize_see_the_same_rays():
    depth = np.full((12, 16), 3.0)
    camera = Camera(20, 21, 7, 5)
    whole = points(depth, camera)
    assert np.array_equal(points(depth[2:, 3:], camera.cropped(top=2, left=3)), whole[2:, 3:])
    double = points(np.full((24, 32), 3.0), camera.scaled(2))  # four small pixels have one large one's centre for mean
    np.testing.assert_allclose(double.reshape(12, 2, 16, 2, 3).mean(axis=(1, 3)), whole, atol=1e-12)


@pytest.mark.parametrize("numbers", [(0, 1, 0, 0), (1, -1, 0, 0), (1, 1, np.nan, 0), (1, 1, 0, np.inf), ("a", 1, 0, 0)])
def test_a_camera_that_is_none(numbers):
    with pytest.raises(UsageError, match=r"^camera: .*; give"):
        Camera(*numbers)


# -- the normals -------------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(tilt=TILTS)
def test_planes_have_their_exact_normals(tilt):
    scene = render(*tilt)
    for radius in (3, 10):
        inner = scene.inner(radius)
        fitted = normals(points(scene.depth, SMALL), radius=radius)
        np.testing.assert_allclose(fitted[inner], scene.normal[inner], atol=1e-7)
        np.testing.assert_allclose(np.linalg.norm(fitted, axis=2), 1, atol=1e-12)
        assert ((fitted * points(scene.depth, SMALL)).sum(axis=2) > 0).all()  # away from the camera


def test_a_fit_is_the_one_of_least_squares():
    """Against numpy's solver on the points of the window, with holes, edges, corners and noise in it."""
    depth = kinect(render(12, 7, 20).depth)
    missing = np.random.default_rng(1).random(SIZE) < 0.3
    cloud = points(depth, SMALL)
    for radius in (3, 10):
        fitted = normals(cloud, missing, radius)
        for y, x in [(0, 0), (119, 159), (0, 80), (60, 1), (60, 80), (37, 111), (100, 20)]:
            window = (slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1))
            seen = cloud[window][~missing[window]]
            plane = np.linalg.lstsq(seen / seen[:, 2:], 1 / seen[:, 2], rcond=None)[0]
            np.testing.assert_allclose(fitted[y, x], plane / np.linalg.norm(plane), atol=1e-8)


def test_the_unit_of_length_and_the_side_do_not_matter():
    scene = render(10, -8, 15)
    cloud = points(kinect(scene.depth), SMALL)
    fitted = normals(cloud)
    np.testing.assert_allclose(normals(cloud * 100), fitted, atol=1e-9)
    mirrored = normals((cloud * [-1, 1, 1])[:, ::-1])
    np.testing.assert_allclose(mirrored[:, ::-1] * [-1, 1, 1], fitted, atol=1e-9)


def test_points_on_a_line_are_no_plane():
    assert np.isnan(normals(points(np.full((1, 50), 2.0)))).all()
    assert np.isnan(normals(points(np.full((50, 1), 2.0)))).all()
    two = np.zeros((7, 7))
    two[0, 0] = two[4, 5] = 1.0
    assert np.isnan(normals(points(two))).all()
    three = two.copy()
    three[6, 0] = 1.0
    assert normals(points(three))[3, 3].tolist() == pytest.approx([0, 0, 1])
    three[6, 0], three[2, 2], three[6, 6] = 0, 0, 0
    np.fill_diagonal(three, 1.0)
    three[4, 5] = 0
    assert np.isnan(normals(points(three))).all()


@given(seed=st.integers(0, 10**6))
def test_fewer_than_three_points_are_no_plane(seed):
    rng = np.random.default_rng(seed)
    depth = np.where(rng.random((20, 30)) < 0.04, rng.uniform(0.5, 9, (20, 30)), 0)
    fitted = normals(points(depth, NYUD.scaled(10 ** rng.uniform(-2, 1))))
    for y, x in np.ndindex(depth.shape):
        count = np.count_nonzero(depth[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4])
        assert count > 2 or np.isnan(fitted[y, x]).all()


# -- gravity -----------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(tilt=TILTS)
def test_gravity_of_a_room_within_a_degree(tilt):
    scene = render(*tilt)
    assert degrees_between(gravity(scene.normal), scene.down) < 1e-4  # of the true normals
    assert degrees_between(found(scene), scene.down) < 1.0  # of fitted ones, edges blurred over 21 pixels


@settings(max_examples=20)
@given(tilt=TILTS, seed=st.integers(0, 1000), times=st.floats(1, 3))
def test_gravity_of_a_noisy_room_within_a_degree(tilt, seed, times):
    scene = render(*tilt)
    assert degrees_between(found(scene, kinect(scene.depth, seed, times)), scene.down) < 1.0


@given(seed=st.integers(0, 1000), tilt=TILTS)
def test_gravity_turns_with_the_normals_and_has_no_sign(seed, tilt):
    rng = np.random.default_rng(seed)
    vectors = np.repeat([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]], [40, 20, 20], axis=0) + rng.normal(0, 0.05, (80, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    result, rotation = gravity(vectors), turned(*tilt)
    np.testing.assert_allclose(gravity(vectors @ rotation.T, rotation @ [0, 1, 0]), rotation @ result, atol=1e-9)
    np.testing.assert_allclose(gravity(vectors * rng.choice([-1, 1], (80, 1))), result, atol=1e-9)
    np.testing.assert_allclose(gravity(np.vstack([vectors, [[np.nan] * 3]])), result, atol=1e-9)
    assert np.linalg.norm(result) == pytest.approx(1)


def test_where_nothing_decides_gravity_stays():
    assert gravity(np.full((4, 4, 3), np.nan)).tolist() == [0, 1, 0]
    assert gravity(np.zeros((0, 3)), start=(0, 2, 0)).tolist() == [0, 1, 0]
    np.testing.assert_allclose(gravity(np.array([[0.0, 0, 1]] * 9)), [0, 1, 0])  # a single wall, seen straight on
    lean = np.array([[0.0, 0.28, 0.96]] * 9)  # a single wall, the camera looking down or up: as upright as can be
    np.testing.assert_allclose(gravity(lean), [0, 0.96, -0.28])


@pytest.mark.parametrize("wrong", [np.zeros(3)[:2], np.zeros((4, 2))])
def test_normals_of_another_shape(wrong):
    with pytest.raises(UsageError, match=r"^normals: "):
        gravity(wrong)


@pytest.mark.parametrize("start", [(0, 0, 0), (0, 1), (0, np.nan, 1)])
def test_a_start_without_direction(start):
    with pytest.raises(UsageError, match=r"^start: "):
        gravity(np.zeros((1, 3)), start=start)


# -- the encoding ------------------------------------------------------------------------------------------------------


def check_room(scene, depth, disparity, height_cm, level, wall):
    """The encoding of a room against the truth; bounds of the three channels inside the planes."""
    encoded = hha(depth, SMALL).astype(float)
    assert encoded.shape == (*SIZE, 3)
    exact = np.clip(31000 / np.maximum(100 * scene.depth, 100), 0, 255)
    assert np.abs(encoded[:, :, 0] - exact).max() <= disparity
    if ((scene.plane == FLOOR) & (scene.height < 0.01)).sum() > 500:  # the floor is in sight
        error = np.abs(encoded[:, :, 1] - np.clip(100 * scene.height, 0, 255))
        assert np.percentile(error, 99) <= height_cm
    inner, angle = scene.inner(3), encoded[:, :, 2] - 38
    for planes, truth, bound in (([FLOOR, BOX + 1], 0, level), ([CEILING], 180, level), ([2, 3, 4, 5, 6, 8], 90, wall)):
        seen = inner & np.isin(scene.plane, planes)
        if seen.any():
            assert np.percentile(np.abs(angle[seen] - truth), 95) <= bound


@settings(max_examples=20)
@given(tilt=TILTS)
def test_the_encoding_of_a_room(tilt):
    scene = render(*tilt)
    check_room(scene, scene.depth, disparity=0.5, height_cm=5, level=1, wall=1)


@settings(max_examples=20)
@given(tilt=TILTS, seed=st.integers(0, 1000))
def test_the_encoding_of_a_noisy_room(tilt, seed):
    scene = render(*tilt)
    check_room(scene, kinect(scene.depth, seed), disparity=4, height_cm=8, level=6, wall=10)


def test_the_channels_by_their_formulas():
    """Fits of radius 10 give gravity, those of radius 3 the angle; heights go along it."""
    depth = kinect(render(12, 8, 5).depth)
    depth[:3] = [[0.2], [0.5], [0.99]]
    cloud, missing = points(depth, SMALL), np.random.default_rng(0).random(SIZE) < 0.2
    down = found(None, depth, missing=missing)
    disparity, height, angle = geocentric(depth, SMALL, missing)
    np.testing.assert_allclose(disparity, np.minimum(310 / depth, 310))
    np.testing.assert_allclose(height, -100 * (cloud @ down) - (-100 * (cloud @ down)).min())
    np.testing.assert_allclose(np.cos(np.radians(angle)), normals(cloud, missing, 3) @ down, atol=1e-12)


def test_one_plane_after_another():
    scene = render(pitch=20)
    encoded = hha(scene.depth, SMALL)
    inner = scene.inner(3)
    assert set(encoded[inner & (scene.plane == FLOOR)][:, 2].tolist()) <= {38, 39}
    assert set(encoded[inner & (scene.plane == WALL)][:, 2].tolist()) <= {127, 128, 129}
    top = inner & (scene.plane == BOX + 1)
    assert top.any() and np.abs(encoded[top][:, 1].astype(int) - 60).max() <= 3
    assert set(hha(render(pitch=-25).depth, SMALL)[5, 60:100, 2].tolist()) <= {217, 218}


def test_the_ground_is_at_130_cm_where_none_is_in_sight():
    low = render(pitch=15, eye=0.8)  # the lowest point is 80 cm below the camera: taken for no floor
    _, height, _ = geocentric(low.depth, SMALL)
    assert np.median(height[low.plane == FLOOR]) == pytest.approx(50, abs=3)
    high = render(pitch=15, eye=1.0)
    _, height, _ = geocentric(high.depth, SMALL)
    assert height.min() == 0 and np.median(height[high.plane == FLOOR]) == pytest.approx(0, abs=3)


def test_channels_are_rounded_and_saturate():
    depth = np.full((40, 40), 1.0)
    depth[:20] = 31000 / 200.5 / 100  # halves are rounded up
    encoded = hha(depth)
    assert set(encoded[:20, :, 0].ravel().tolist()) <= {200, 201} and (encoded[20:, :, 0] == 255).all()
    assert (hha(np.full((40, 40), 0.3))[:, :, 0] == 255).all()
    tall = Camera(100, 100, 20, 400)  # everything stands far above the axis: heights beyond 255 cm
    _, height, _ = geocentric(np.full((40, 40), 4.0), tall)
    assert height.max() > 1000
    assert (hha(np.full((40, 40), 4.0), tall)[:, :, 1] == 255).all()


def test_halves_are_rounded_up(monkeypatch):
    channels = [np.array([[0.5, 1.5, 2.5, 254.49, 254.5, 300.0, -3.0]])] * 3
    monkeypatch.setattr(module, "geocentric", lambda *_: channels)
    assert module.hha(np.ones((1, 7)))[0, :, 0].tolist() == [1, 2, 3, 254, 255, 255, 0]


@settings(max_examples=10)
@given(tilt=TILTS, seed=st.integers(0, 1000))
def test_a_mirrored_scene_has_a_mirrored_encoding(tilt, seed):
    depth = kinect(render(*tilt, camera=TINY, size=TINY_SIZE).depth, seed)
    other = Camera(TINY.fx, TINY.fy, TINY_SIZE[1] - 1 - TINY.cx, TINY.cy)
    here, there = geocentric(depth, TINY), geocentric(depth[:, ::-1], other)
    for channel, mirrored in zip(here, there, strict=True):
        np.testing.assert_allclose(mirrored[:, ::-1], channel, atol=1e-5)


@settings(max_examples=10)
@given(tilt=TILTS, factor=st.floats(1, 3))
def test_a_larger_room_is_farther_and_higher_by_its_factor(tilt, factor):
    depth = render(*tilt, camera=TINY, size=TINY_SIZE).depth
    small, large = geocentric(depth, TINY), geocentric(factor * depth, TINY)
    far = depth > 1
    np.testing.assert_allclose(large[0][far] * factor, small[0][far], rtol=1e-9)
    np.testing.assert_allclose(large[2], small[2], atol=1e-4)
    if np.ptp(small[1]) > 250 and small[1].min() == 0:
        np.testing.assert_allclose(large[1], small[1] * factor, atol=1e-4)


def test_an_image_of_twice_the_size_has_the_same_encoding():
    once, twice = render(15, 5, 10), render(15, 5, 10, camera=NYUD.scaled(1 / 2), size=(240, 320))
    small, large = hha(once.depth, SMALL).astype(int), hha(twice.depth, NYUD.scaled(1 / 2)).astype(int)[::2, ::2]
    difference = np.abs(small - large)
    assert np.median(difference) <= 1 and np.percentile(difference, 90) <= 5


def test_holes_are_filled_by_their_neighbours_planes():
    scene = render(20, 5, 10)
    missing = np.random.default_rng(0).random(SIZE) < 0.4
    depth = np.where(missing, 9.0, scene.depth)  # filled in, and wrongly
    _, _, angle = geocentric(depth, SMALL, missing)
    inner = scene.inner(3)
    truth = np.degrees(np.arccos(np.clip(scene.normal @ scene.down, -1, 1)))
    assert np.abs(angle - truth)[inner].max() < 1.5
    _, _, trusted = geocentric(depth, SMALL)
    assert np.abs(trusted - truth)[inner].max() > 20
    unknown = np.where(missing, 0, scene.depth)  # not filled in: the same planes
    np.testing.assert_allclose(geocentric(unknown, SMALL)[2][~missing], angle[~missing], atol=1e-6)


# -- hostile input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "depth",
    [
        np.zeros((6, 8)), np.full((6, 8), np.nan), np.full((6, 8), np.inf), np.full((6, 8), -np.inf),
        np.full((6, 8), 5e-324), np.full((1, 1), 2.0), np.full((1, 9), 2.0), np.full((9, 1), 2.0, np.float32),
        np.array([[1.0, np.nan, np.inf, 0.0, 1e-5, 1000.0]] * 4), np.full((3, 3), 1000.0), np.full((3, 3), 1e-4),
        np.full((6, 8), 2.0, np.float16), np.full((6, 8), 2.0)[::-1, ::-1], np.full((6, 8), 2.0, ">f4"),
    ],
    ids=str,
)  # fmt: skip
def test_strange_depth_has_a_defined_encoding(depth):
    before = depth.copy()
    encoded = hha(depth)
    assert encoded.shape == (*depth.shape, 3) and encoded.dtype == np.uint8
    assert np.array_equal(before, depth, equal_nan=True)
    assert all(np.isfinite(channel).all() for channel in geocentric(depth))


def test_nothing_known_is_the_camera_itself():
    assert np.unique(hha(np.zeros((6, 8))).reshape(-1, 3), axis=0).tolist() == [[255, 130, 218]]


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_noise_of_any_kind_is_encoded(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 30, 2))
    depth = 10 ** rng.uniform(-6, 3, shape)
    depth[rng.random(shape) < rng.random()] = rng.choice([0, np.nan, np.inf, 1.0])
    channels = geocentric(depth, NYUD.scaled(10 ** rng.uniform(-2, 1)), rng.random(shape) < rng.random())
    assert all(np.isfinite(channel).all() for channel in channels)
    assert channels[1].min() >= 0 and 0 <= channels[2].min() <= channels[2].max() <= 180


@pytest.mark.parametrize(
    "depth, missing, line",
    [
        (np.ones((6, 8), np.uint16), None, "depth: .*uint16; give .* floats in metres"),
        (np.ones((6, 8), bool), None, "depth: .*bool"),
        (np.ones((6, 8), complex), None, "depth: .*complex"),
        (np.full((6, 8), None), None, "depth: .*object"),
        (np.full((6, 8), -1.0), None, "depth: -1 is behind the camera; "),
        (np.full((6, 8), 2000.0), None, "depth: 2000 metres is too far; .*millimetres by 1000"),
        (np.ones(8), None, "depth: "), (np.ones((6, 8, 1)), None, "depth: "), (np.ones((0, 8)), None, "depth: "),
        (1.0, None, "depth: "), ("a", None, "depth: "),
        (np.ones((6, 8)), np.ones((8, 6), bool), "missing: .*; give"),
        (np.ones((6, 8)), np.ones((6, 8)), "missing: .*float64; give"),
        (np.ones((6, 8)), True, "missing: "),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_encoded_is_one_line(depth, missing, line):
    with pytest.raises(UsageError, match=f"^{line}") as raised:
        hha(depth, missing=missing)
    assert "\n" not in str(raised.value) and ";" in str(raised.value)


@pytest.mark.parametrize("cloud, radius", [(np.ones((3, 3)), 3), (np.ones((3, 3, 3)), 0), (np.ones((3, 3, 3)), 1.5)])
def test_windows_and_points_that_are_none(cloud, radius):
    with pytest.raises(UsageError, match=r"^(points|radius): "):
        normals(cloud, radius=radius)


# -- a folder ----------------------------------------------------------------------------------------------------------


def save(path, millimetres):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(millimetres)).save(path)


@pytest.fixture
def folder(tmp_path):
    for i, pitch in enumerate((0, 10, 20)):
        depth = render(pitch, camera=TINY, size=TINY_SIZE).depth
        save(tmp_path / "depth" / f"{i}.png", np.rint(1000 * depth).astype(np.uint16))
    return tmp_path


def test_a_folder_is_encoded_in_order(folder):
    calls = []
    names = encode_folder(folder / "depth", folder / "out" / "hha", TINY, progress=lambda *call: calls.append(call))
    assert names == ["0.png", "1.png", "2.png"] and calls == [(1, 3), (2, 3), (3, 3)]
    assert sorted(path.name for path in (folder / "out" / "hha").iterdir()) == names
    for name in names:
        with Image.open(folder / "depth" / name) as depth, Image.open(folder / "out" / "hha" / name) as picture:
            assert picture.mode == "RGB"
            assert np.array_equal(np.asarray(picture), hha(np.asarray(depth) / 1000, TINY))


def test_a_stopped_run_goes_on(folder):
    out = folder / "out"
    encode_folder(folder / "depth", out, TINY)
    whole = (out / "0.png").read_bytes()
    (out / "1.png").write_bytes((out / "1.png").read_bytes()[:-200])  # cut short by somebody else
    (out / "2.png").unlink()
    stamp = (out / "0.png").stat().st_mtime_ns
    assert encode_folder(folder / "depth", out, TINY) == ["1.png", "2.png"]
    assert (out / "0.png").read_bytes() == whole and (out / "0.png").stat().st_mtime_ns == stamp
    assert encode_folder(folder / "depth", out, TINY) == []


def test_the_raw_depth_says_what_is_missing(folder):
    raw = np.asarray(Image.open(folder / "depth" / "0.png")).copy()
    hole = np.random.default_rng(0).random(raw.shape) < 0.5
    raw[hole] = 0
    for i in range(3):
        save(folder / "raw" / f"{i}.png", raw)
    encode_folder(folder / "depth", folder / "out", TINY, raw=folder / "raw")
    with Image.open(folder / "depth" / "1.png") as depth, Image.open(folder / "out" / "1.png") as picture:
        assert np.array_equal(np.asarray(picture), hha(np.asarray(depth) / 1000, TINY, hole))


def test_a_failure_stops_no_other(folder):
    depth, out = folder / "depth", folder / "out"
    save(depth / "a.png", np.zeros((6, 8), np.uint16))
    save(depth / "b.png", np.ones((6, 8), np.uint8))
    save(depth / "c.png", np.zeros((6, 8, 3), np.uint8))
    (depth / "d.png").write_bytes(b"no picture")
    (depth / "e.png").write_bytes((depth / "0.png").read_bytes()[:300])
    (depth / "f.png").mkdir()
    (depth / "notes.txt").write_text("not depth")
    calls = []
    with pytest.raises(UsageError, match=r"^\S*depth: 6 of 9 files cannot be encoded: ") as raised:
        encode_folder(depth, out, TINY, progress=lambda *call: calls.append(call))
    line = str(raised.value)
    assert all(f"{name}.png" in line for name in "abcde") and "and 1 more" in line and "\n" not in line
    assert "every value is 0" in line and "(6, 8) uint8" in line and "(6, 8, 3) uint8" in line
    assert sorted(path.name for path in out.iterdir()) == ["0.png", "1.png", "2.png"] and len(calls) == 9


def test_a_raw_file_that_does_not_fit(folder):
    save(folder / "raw" / "0.png", np.ones((6, 8), np.uint16))
    save(folder / "raw" / "1.png", np.ones(TINY_SIZE, np.uint16))
    with pytest.raises(UsageError, match=r"2 of 3 .*0\.png: missing: .*2\.png: no such file"):
        encode_folder(folder / "depth", folder / "out", TINY, raw=folder / "raw")
    assert [path.name for path in (folder / "out").iterdir()] == ["1.png"]


def test_folders_that_cannot_be(folder):
    (folder / "empty").mkdir()
    depth = folder / "depth"
    for arguments in [
        (folder / "nowhere", folder / "out"), (folder / "empty", folder / "out"), (depth, depth),
        (depth, folder / "out", TINY, folder / "nowhere"), (depth, folder / "empty", TINY, folder / "empty"),
    ]:  # fmt: skip
        with pytest.raises(UsageError, match="; give"):
            encode_folder(*arguments)
    assert not (folder / "out").exists()
    (folder / "file").write_text("")
    with pytest.raises(FullconvError):
        encode_folder(depth, folder / "file", TINY)


def test_a_full_disk_ends_the_run(folder, monkeypatch):
    def full(path, data):
        raise RunError(f"{path}: cannot write {len(data)} bytes (no space); free the disk")

    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(RunError):
        encode_folder(folder / "depth", folder / "out", TINY)
