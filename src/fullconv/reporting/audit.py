"""The label audit on the page of a run: what was looked at, and the weightiest regions as pictures."""

from __future__ import annotations

from fullconv.labels import LabelSpace
from fullconv.reporting.formatting import counted
from fullconv.reporting.label_audit import BORDER, OF_ONE_IMAGE, SURE, Audit, Suspect
from fullconv.reporting.page import Figure, Section, Strip, percent
from fullconv.reporting.pictures import outlined, over_gray, view

_WIDTH = 178  # CSS pixels of a picture, four in a row
_WEAK = 0.5


def audit_section(audit: Audit, mean_iu: float | None, sizes: dict[str, int]) -> Section:
    """The section of the page. sizes: how many images each split has."""
    looked = " and ".join(
        f"{'all' if number == sizes[split] else f'{number:,} of'} {sizes[split]:,} "
        f"{'validation' if split == 'val' else 'training'} images"
        for split, number in audit.images.items()
    )
    what = (
        f"Where the net is sure (a mean probability of {SURE:.1f} or more) and the label says otherwise, in a "
        f"connected region that is more than a shifted border: the outermost {BORDER} pixels of a region do not "
        f"count, void neither. {looked[:1].upper()}{looked[1:]} were looked at."
    )
    if not audit.top:
        return Section("Label audit", f"{what}\n\nNo such region was found.")
    shown = (
        "The only one is shown."
        if audit.regions == 1
        else f"{counted(audit.regions, 'region')} were found. Shown are the {len(audit.top)} of most pixels times "
        f"probability, at most {OF_ONE_IMAGE} of one image."
        if audit.regions > len(audit.top)
        else f"{counted(audit.regions, 'region')} were found, all are shown."
    )
    advice = (
        "These are places to look at, not verdicts: some are errors of the label, and some are errors of the net. Mend "
        "the labels that are wrong, or set them to void, and train again."
    )
    if mean_iu is not None and mean_iu < _WEAK:
        advice += f" With a mean IU of {percent(mean_iu)} % most of them will be errors of the net."
    strips = tuple(_strip(suspect, place, audit.labels) for place, suspect in enumerate(audit.top, start=1))
    return Section("Label audit", f"{what}\n\n{shown} {advice}", strips)


def _strip(suspect: Suspect, place: int, labels: LabelSpace) -> Strip:
    region, names = suspect.region, labels.names
    box = region.box
    words = (
        f"{place}. {suspect.name} ({suspect.split}): the label says {names[region.said]}, the net says "
        f"{names[region.found]} with a mean probability of {region.probability:.2f}, on "
        f"{counted(region.pixels, 'pixel')} (rows {box.top} to {box.bottom - 1}, columns {box.left} to "
        f"{box.right - 1})."
    )
    views = (
        ("image", suspect.image),
        (f"label: {names[region.said]}", over_gray(suspect.image, suspect.truth, labels)),
        (f"net: {names[region.found]}", over_gray(suspect.image, suspect.prediction, labels)),
        ("the region", outlined(suspect.image, suspect.mask, _WIDTH)),
    )
    return Strip(tuple(Figure(view(p, _WIDTH), title, f"{title}, of {words}") for title, p in views), words)
