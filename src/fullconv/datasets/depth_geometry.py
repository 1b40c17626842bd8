"""Depth as geometry: the camera, the points behind the pixels, their surface normals, the direction of gravity.

The frame is the camera's: x to the right, y down, z forward, in metres. Follows the RGBD utilities of S. Gupta
(Gupta, Arbelaez, Malik, "Perceptual organization and recognition of indoor scenes from RGB-D images", CVPR 2013).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fullconv.errors import UsageError

Floats = NDArray[np.float64]

FARTHEST = 1000.0
"""The largest depth that is taken for metres; what is beyond was written in other units."""

_NEAREST = 1e-4  # what is nearer is no measurement, and its inverse would drown its neighbours
_FLAT = 1e-6  # of the squared spread of a window; below it, its points lie on a line
_TIED = 1e-9  # a normal; eigenvalues nearer than this are one


@dataclass(frozen=True)
class Camera:
    """A pinhole camera, in pixels; the centre of the first pixel has the coordinates (0, 0).

    fx, fy: focal lengths.
    cx, cy: the principal point, x to the right and y down.

    Raises `UsageError` when a number is not finite or a focal length is not positive.
    """

    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self) -> None:
        numbers = (self.fx, self.fy, self.cx, self.cy)
        if not all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers) or min(self.fx, self.fy) <= 0:
            raise UsageError(f"camera: {numbers}; give focal lengths above 0 and a principal point, in pixels")

    def cropped(self, top: float, left: float) -> Camera:
        """The camera of the image without its first `top` rows and `left` columns.

        >>> Camera(500, 500, 320, 240).cropped(top=45, left=40)
        Camera(fx=500, fy=500, cx=280, cy=195)
        """
        return Camera(self.fx, self.fy, self.cx - left, self.cy - top)

    def scaled(self, factor: float) -> Camera:
        """The camera of the image resized by `factor`, its corners staying corners (pixels are squares, not points).

        >>> Camera(500, 500, 319.5, 239.5).scaled(0.5)
        Camera(fx=250.0, fy=250.0, cx=159.5, cy=119.5)
        """
        cx, cy = ((centre + 0.5) * factor - 0.5 for centre in (self.cx, self.cy))
        return Camera(self.fx * factor, self.fy * factor, cx, cy)


NYUD = Camera(518.857901, 519.469611, 325.582449 - 1, 253.736166 - 1)
"""The colour camera of NYUDv2 at 640x480: ``camera_params.m`` of the NYU toolbox (Silberman and others, ECCV 2012).

The toolbox and saveHHA.m count pixels from 1, `Camera` counts from 0, hence the 1 that is taken off: the rays are the
same. Images without the white border, 560x425, have ``NYUD.cropped(top=45, left=40)``.
"""


def points(depth: NDArray[np.floating], camera: Camera = NYUD) -> Floats:
    """The point behind every pixel: (H, W, 3) float64 of x, y, z in metres; (0, 0, 0) where the depth is unknown.

    depth: (H, W) floats in metres, the z of the point. 0, NaN, the infinities, and less than a tenth of a millimetre
        are unknown.

    Raises `UsageError` for integers, another shape, nothing at all, negative depth, and depth beyond `FARTHEST`.

    >>> points(np.array([[2.0, 0.0]]), Camera(fx=1, fy=1, cx=1, cy=0)).tolist()
    [[[-2.0, 0.0, 2.0], [0.0, 0.0, 0.0]]]
    """
    depth = np.asarray(depth)
    if depth.ndim != 2 or not depth.size or not np.issubdtype(depth.dtype, np.floating):
        raise UsageError(
            f"depth: {depth.shape} {depth.dtype}; give (height, width) floats in metres (millimetres / 1000)"
        )
    z = np.where(np.isfinite(depth), depth, 0).astype(np.float64)
    if z.min() < 0:
        raise UsageError(f"depth: {z.min():g} is behind the camera; give metres, and 0 where the depth is unknown")
    if z.max() > FARTHEST:
        raise UsageError(f"depth: {z.max():g} metres is too far; give metres (divide millimetres by 1000)")
    z[z < _NEAREST] = 0
    y, x = np.mgrid[: z.shape[0], : z.shape[1]]
    return np.stack([(x - camera.cx) * z / camera.fx, (y - camera.cy) * z / camera.fy, z], axis=2)


def normals(points: Floats, missing: NDArray[np.bool_] | None = None, radius: int = 3) -> Floats:
    """The unit normal of the surface at every pixel: (H, W, 3) float64, pointing away from the camera.

    points: (H, W, 3) of x, y, z, as `points` gives them; z = 0 is unknown.
    missing: (H, W) bool, pixels whose depth is not to be trusted. They and the unknown ones take no part in a fit, but
        get the normal of the fit around them.
    radius: the window of a fit has 2 * radius + 1 pixels a side, fewer at the border of the image.

    The plane is the one of least squares in inverse depth, 1 / z = a x / z + b y / z + c, whose normal is along
    (a, b, c): the noise of a Kinect is even in inverse depth. NaN where a window holds fewer than three points or only
    points on a line. So a plane gives its exact normal, the unit of length does not matter, and a mirrored surface has
    mirrored normals. A window does not end at a jump in depth: saveHHA.m has a parameter for it, a map of superpixels,
    and passes a constant one, so within `radius` of an edge the normal is a mean of both sides there and here.

    Raises `UsageError` for other shapes and a radius below 1.

    >>> wall = np.full((5, 5), 2.0)
    >>> (normals(points(wall)) + 0.0).round(6)[2, 2].tolist()
    [0.0, 0.0, 1.0]
    """
    points = np.asarray(points)
    if points.ndim != 3 or points.shape[2] != 3 or not points.size or not np.issubdtype(points.dtype, np.floating):
        raise UsageError(f"points: {points.shape} {points.dtype}; give (height, width, 3) floats")
    if not isinstance(radius, (int, np.integer)) or radius < 1:
        raise UsageError(f"radius: {radius!r}; give a whole number of pixels from 1")
    known = np.isfinite(points).all(axis=2) & (points[:, :, 2] > 0)
    known &= ~checked_mask(missing, known.shape)
    x, y, w = np.zeros((3, *known.shape))
    x[known], y[known] = (points[known][:, :2] / points[known][:, 2:]).T
    w[known] = 1 / points[known][:, 2]
    x0, y0 = (axis[known].mean() if known.any() else 0.0 for axis in (x, y))
    x, y = (x - x0) * known, (y - y0) * known  # moments about the middle of the image lose fewer digits

    count = _box_sum(known.astype(np.float64), radius)
    mx, my, mw, xx, xy, yy, xw, yw = (
        _box_sum(term, radius) / np.maximum(count, 1) for term in (x, y, w, x * x, x * y, y * y, x * w, y * w)
    )
    xx, xy, yy, xw, yw = xx - mx * mx, xy - mx * my, yy - my * my, xw - mx * mw, yw - my * mw
    det = xx * yy - xy * xy
    found = (count > 2.5) & (det > _FLAT * (xx + yy) ** 2)
    a, b = yy * xw - xy * yw, xx * yw - xy * xw  # all three times det: only the direction counts
    normal = np.stack([a, b, det * mw - a * (mx + x0) - b * (my + y0)], axis=2)
    length = np.sqrt((normal * normal).sum(axis=2))
    found &= length > 0
    side = np.where(np.isfinite(points), points, 0)
    facing = (normal * side).sum(axis=2)
    facing = np.where(facing == 0, normal[:, :, 2], facing)
    length = np.where(found, np.where(facing < 0, -length, length), np.nan)
    return normal / length[:, :, None]


def gravity(
    normals: Floats,
    start: Sequence[float] = (0.0, 1.0, 0.0),
    stages: Sequence[tuple[float, int]] = ((45.0, 5), (15.0, 5)),
) -> Floats:
    """The direction of gravity, a unit vector of three: the one to which most surfaces are level or upright.

    normals: (..., 3), of which those with NaN are left out.
    start: the first guess; straight down in the image.
    stages: (threshold in degrees, iterations), one after the other.

    Each iteration takes the normals within the threshold of the present direction or its opposite (floors, tables,
    ceilings) and those within the threshold of the plane across it (walls), and finds the direction g of the least
    sum over walls of (n g)^2 minus the sum over floors of (n g)^2: an eigenvector of a 3x3 matrix, on the side of the
    present direction. A room of level floors and upright walls is a fixed point, the signs of normals do not matter,
    and turning all normals and `start` turns the result. Where several directions are equally good, as before a single
    wall, it is the one nearest to the present one; where nothing decides, the present one stays.

    Raises `UsageError` when `normals` or `start` have another shape, or `start` no direction.

    >>> tilted = np.array([[0.0, 0.96, 0.28], [1.0, 0.0, 0.0], [0.0, -0.28, 0.96]])
    >>> gravity(tilted).round(6).tolist()
    [0.0, 0.96, 0.28]
    """
    normals, direction = np.asarray(normals, dtype=np.float64), np.asarray(start, dtype=np.float64)
    if normals.shape[-1:] != (3,):
        raise UsageError(f"normals: the shape {normals.shape}; give (..., 3)")
    if direction.shape != (3,) or not np.isfinite(direction).all() or not direction.any():
        raise UsageError(f"start: {start}; give three numbers that are not all 0")
    direction = direction / np.linalg.norm(direction)
    vectors = normals.reshape(-1, 3)
    vectors = vectors[np.isfinite(vectors).all(axis=1)]
    for threshold in [degrees for degrees, times in stages for _ in range(times)]:
        cosine = np.abs(vectors @ direction)
        wall = cosine < math.sin(math.radians(threshold))
        floor = cosine > math.cos(math.radians(threshold))
        weight = wall.astype(np.float64) - floor
        values, axes = np.linalg.eigh(vectors.T @ (vectors * weight[:, None]))
        best = axes[:, values <= values[0] + _TIED * len(vectors)]
        nearest = best @ (best.T @ direction)
        length = np.linalg.norm(nearest)
        if length > _TIED:
            direction = nearest / length
    return direction


def checked_mask(missing: NDArray[np.bool_] | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """`missing` itself, or all False for None; `UsageError` when it is no bool array of this shape."""
    if missing is None:
        return np.zeros(shape, dtype=bool)
    missing = np.asarray(missing)
    if missing.shape != shape or missing.dtype != np.bool_:
        raise UsageError(
            f"missing: {missing.shape} {missing.dtype}; give {shape} bool, True where raw depth is unknown"
        )
    return missing


def _box_sum(values: Floats, radius: int) -> Floats:
    """The sum over the window of every pixel, cut at the border; two running sums, whatever the radius."""
    for axis in (0, 1):
        size = values.shape[axis]
        first = [(1, 0) if a == axis else (0, 0) for a in (0, 1)]
        running = np.pad(np.cumsum(values, axis=axis), first)
        place = np.arange(size)
        after, before = np.minimum(place + radius + 1, size), np.maximum(place - radius, 0)
        values = running.take(after, axis=axis) - running.take(before, axis=axis)
    return values
