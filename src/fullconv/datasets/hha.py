"""HHA: a depth map as a picture of horizontal disparity, height above ground and angle to gravity.

The encoding of Gupta, Girshick, Arbelaez and Malik, "Learning rich features from RGB-D images for object detection and
segmentation", ECCV 2014, as their ``saveHHA.m`` computes it (github.com/s-gupta/rcnn-depth): what the released FCN for
NYUDv2 takes. docs/hha.md says where this differs.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.datasets.depth_geometry import (
    NYUD,
    Camera,
    Floats,
    checked_mask,
    gravity,
    normals,
    points,
)
from fullconv.errors import UsageError, shown
from fullconv.io.atomic import write_atomically
from fullconv.io.label_image import read_label_values

__all__ = ["NYUD", "Camera", "encode_dataset", "encode_folder", "geocentric", "gravity", "hha", "normals", "points"]

_FINE, _COARSE = 3, 10  # radii of the plane fits: for the angle, and for gravity
_NAMED = 5  # failures that are told in full


def geocentric(
    depth: NDArray[np.floating], camera: Camera = NYUD, missing: NDArray[np.bool_] | None = None
) -> tuple[Floats, Floats, Floats]:
    """Horizontal disparity, height in cm and angle in degrees, each (H, W) float64: the channels before any rounding.

    The parameters and errors are those of `hha`.

    Disparity is 31000 / max(z, 100), z in cm: 310 at one metre and nearer (and where the depth is unknown), 31 at ten.
    Height is measured against gravity from the lowest point of the image. Where that is less than 90 cm below the
    camera, no floor is in sight, and the ground is taken to be 130 cm below the camera. The angle is between gravity
    and the normal that points away from the camera: 0 for floors and table tops, 90 for walls, 180 for ceilings and
    where no plane can be fitted.

    >>> disparity, height, angle = geocentric(np.full((9, 9), 2.0))  # a wall
    >>> disparity[4, 4].item(), height[4, 4].round().item(), angle[4, 4].round(3).item()
    (155.0, 226.0, 90.0)
    """
    cloud = points(depth, camera)
    missing = checked_mask(missing, cloud.shape[:2])
    down = gravity(normals(cloud, missing, _COARSE))
    height = -100 * (cloud @ down)
    ground = height.min()
    height -= ground if ground <= -90 else -130
    angle = np.degrees(np.arccos(np.clip(normals(cloud, missing, _FINE) @ down, -1, 1)))
    return 31000 / np.maximum(100 * cloud[:, :, 2], 100), height, np.where(np.isnan(angle), 180, angle)


def hha(
    depth: NDArray[np.floating], camera: Camera = NYUD, missing: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """The HHA encoding, (H, W, 3) uint8: disparity, height in cm, angle in degrees + 38, as in `geocentric`.

    Rounded to whole numbers, halves up, and held between 0 and 255.

    depth: (H, W) floats in metres, holes filled; 0, NaN and the infinities are unknown.
    camera: of the image as it is given; a cropped or resized one has its own, see `Camera`.
    missing: (H, W) bool, True where the raw depth was unknown and `depth` is filled in: not trusted in plane fits.

    Raises `UsageError` for depth that is no array of floats of two dimensions, is negative or beyond 1000 (metres are
    wanted), and for `missing` of another shape or type.

    >>> hha(np.full((1, 1), 2.0)).tolist()  # one pixel has no plane, and no floor is in sight
    [[[155, 227, 218]]]
    """
    disparity, height, angle = geocentric(depth, camera, missing)
    channels = np.stack([disparity, height, angle + 128 - 90], axis=2)
    return np.floor(np.clip(channels, 0, 255) + 0.5).astype(np.uint8)


def encode_folder(
    depth: Path,
    out: Path,
    camera: Camera = NYUD,
    raw: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write the `hha` of every depth map of a folder under the same name in `out`; the names written, in order.

    depth: a folder of PNG of 16-bit millimetres, 0 where unknown; ``*.png`` directly in it count.
    out: another folder, made where it does not exist. The PNG in it hold disparity, height and angle as R, G and B. A
        whole picture that is there already is left as it is, so a stopped run goes on; remove it to have it anew.
    raw: a folder with the same names before holes were filled; where they hold 0 the raw depth is missing.
    progress: called with (files done, files in all) after every file, whatever became of it.

    Every picture appears whole or not at all. A file that cannot be read, holds no depth or does not fit its raw one
    does not stop the others: all such failures are raised at the end in one `UsageError`, and what could be written
    has been. Also `UsageError`: no such folder, no PNG in it, `out` is one of the others. `RunError` at once: `out`
    cannot be written.
    """
    depth, out = Path(depth), Path(out)
    for folder in [depth] if raw is None else [depth, Path(raw)]:
        if not folder.is_dir():
            raise UsageError(f"{shown(folder)}: no such folder; give the folder of 16-bit PNG")
        if out.resolve() == folder.resolve():
            raise UsageError(f"{shown(out)}: depth stands in it; give another folder for the encoded pictures")
    names = sorted(entry.name for entry in depth.iterdir() if entry.suffix.lower() == ".png")
    if not names:
        raise UsageError(f"{shown(depth)}: no PNG in it; give the folder of 16-bit depth PNG in millimetres")
    written, failures = [], []
    for done, name in enumerate(names, start=1):
        try:
            if not _is_whole(out / name):
                filled = _read_millimetres(depth / name)
                missing = None if raw is None else _read_millimetres(Path(raw) / name) == 0
                picture = BytesIO()
                Image.fromarray(hha(filled / 1000, camera, missing)).save(picture, format="PNG")
                write_atomically(out / name, picture.getvalue())
                written.append(name)
        except UsageError as error:
            message = str(error)
            failures.append(message if shown(name) in message else f"{shown(name)}: {message}")
        if progress is not None:
            progress(done, len(names))
    if failures:
        more = f" | and {len(failures) - _NAMED} more" if len(failures) > _NAMED else ""
        told = " | ".join(failures[:_NAMED])
        raise UsageError(
            f"{shown(depth)}: {len(failures)} of {len(names)} files cannot be encoded: {told}{more}; "
            "mend or remove them and run again (the others are written)"
        )
    return written


def _is_whole(path: Path) -> bool:
    """Whether a colour picture is there that can be read to its end."""
    try:
        return read_label_values(path).ndim == 3
    except UsageError:
        return False


def _read_millimetres(path: Path) -> NDArray[np.integer]:
    """The (H, W) values of a 16-bit file; `UsageError` when it is another kind or all zero."""
    values = read_label_values(path)
    if values.ndim != 2 or values.dtype.itemsize < 2:
        raise UsageError(f"{shown(path)}: {values.shape} {values.dtype}; save depth as 16-bit gray PNG in millimetres")
    if not values.any():
        raise UsageError(f"{shown(path)}: no depth (every value is 0); remove it or save it again")
    return values


def encode_dataset(
    folder: Path, camera: str | None = None, progress: Callable[[int, int], None] | None = None
) -> list[str]:
    """Write HHA pictures in FOLDER/hha from the depth in FOLDER/depth (and FOLDER/rawdepth, if it is there).

    camera: ``FX,FY,CX,CY`` in pixels (default: NYUDv2's). The other arguments and the result are those of
    `encode_folder`.
    """
    if not (folder / "depth").is_dir():
        raise UsageError(f"{shown(folder)}: it has no folder depth; give the folder that holds depth/ID.png")
    raw = folder / "rawdepth"
    return encode_folder(
        folder / "depth", folder / "hha", _camera(camera, folder / "depth"), raw if raw.is_dir() else None, progress
    )


def _camera(text: str | None, depth: Path) -> Camera:
    """Return the camera of a text, or that of NYUDv2 for pictures of its size, whole or without the white border."""
    if text is not None:
        try:
            return Camera(*(float(number) for number in text.split(",")))
        except (TypeError, ValueError):
            raise UsageError(f"--camera is '{shown(text)}'; give FX,FY,CX,CY in pixels") from None
    first = next(iter(sorted(depth.glob("*.png"))), None)
    size = read_label_values(first).shape[:2] if first else (480, 640)
    known = {(480, 640): NYUD, (425, 560): NYUD.cropped(top=45, left=40)}
    if size not in known:
        raise UsageError(f"{shown(first)}: {size[0]}x{size[1]} is no size of NYUDv2; give its --camera FX,FY,CX,CY")
    return known[size]
