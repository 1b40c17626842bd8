"""What is written of each image, and what is said of it: masks, overlays, pictures of confidence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullconv.errors import UsageError, shown
from fullconv.inference.inputs import Input
from fullconv.inference.pipeline import Clock

if TYPE_CHECKING:
    from fullconv.inference.segmentation import Segmentation

Written = dict[str, Any]
"""What there is to say of one image."""


@dataclass(frozen=True)
class OutputWriter:
    """The folder, and which pictures go into it beside the masks."""

    folder: Path
    overlay: bool = False
    probability: bool = False
    entropy: bool = False

    def endings(self) -> dict[str, str]:
        """What follows the name of an image in the name of each picture; that of the mask is the last."""
        more = {"overlay": ".overlay.jpg", "probability": ".probability.png", "entropy": ".entropy.png"}
        return {kind: ending for kind, ending in more.items() if getattr(self, kind)} | {"output": ".png"}

    def path(self, name: str, ending: str) -> Path:
        """Where a picture goes."""
        return self.folder / f"{name}{ending}"

    def are_there(self, name: str) -> bool:
        """Whether all pictures of an image are there to their last bytes. The mask is written when the others are, so
        with it those of a second head are there too.
        """
        from fullconv.io.image import is_whole

        return all(is_whole(self.path(name, ending)) for ending in self.endings().values())

    def refuse_clashes(self, inputs: list[Input]) -> None:
        """Raise `UsageError` where a picture would take the place of its own image, or of another's mask: that of
        ``a.probability.png``, say, beside ``a.png``.
        """
        for given in inputs:
            mask = self.path(given.name, ".png")
            if mask.exists() and Path(given.source).exists() and mask.samefile(given.source):
                raise UsageError(f"{shown(mask)}: the mask would take the place of the image; give another --out")
        names = {given.name for given in inputs}
        tails = [ending.rpartition(".")[0] for ending in self.endings().values() if ending.endswith(".png")]
        for name in names:
            for tail in [".geometric", *filter(None, tails)]:
                if name.endswith(tail) and name.removesuffix(tail) in names:
                    raise UsageError(
                        f"'{shown(name)}': its mask and another picture of '{shown(name.removesuffix(tail))}' would be "
                        "one file; rename it, or predict it into another folder"
                    )

    def write(self, name: str, source: str, found: Segmentation, clock: Clock) -> Written:
        """Write the pictures of one image, and what there is to say of them."""
        from fullconv.inference import uncertainty
        from fullconv.io.image import write_gray, write_overlay
        from fullconv.io.label_image import write_label

        said: Written = {"name": name, "input": source}
        self.path(name, "").parent.mkdir(parents=True, exist_ok=True)
        for head, part in _heads(found):
            with clock("labels"):
                prediction = part.prediction
            for kind, ending in self.endings().items():
                path = self.path(name, head + ending)
                if kind in ("probability", "entropy"):
                    with clock(kind):
                        sure = getattr(uncertainty, kind)(part.scores)
                with clock("writing"):
                    if kind == "overlay":
                        write_overlay(path, part.image, prediction, part.labels)
                    elif kind == "output":
                        write_label(path, prediction, part.labels)
                    else:
                        write_gray(path, sure)
                said[f"{kind}{head}"] = str(path)
        said["height"], said["width"] = prediction.shape
        said["classes"] = sorted({part.labels.names[k] for k in set(prediction.ravel().tolist())})
        return said


def _heads(found: Segmentation) -> Iterator[tuple[str, Segmentation]]:
    """The second head first: the mask of the first is the last thing that is written."""
    if found.geometric is not None:
        yield ".geometric", found.geometric
    yield "", found
