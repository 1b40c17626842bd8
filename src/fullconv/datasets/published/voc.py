"""PASCAL VOC 2007 to 2012, the segmentation task."""

from __future__ import annotations

from pathlib import Path

from fullconv.data.dataset import SEMANTIC, Label
from fullconv.datasets.published.description import DatasetInfo, Published
from fullconv.datasets.published.label_spaces import VOC
from fullconv.datasets.published.split import Split, files_of, one_each, read_list
from fullconv.errors import UsageError, shown
from fullconv.io.image import read_image
from fullconv.io.label_image import read_label

LEAK_FREE = "seg11valid"
"""The images of VOC2011 val that are not in SBD train: what the paper validates on."""

FORM = (
    "JPEGImages/ID.jpg; SegmentationClass/ID.png, palette PNG, the index is the class and 255 void; "
    "ImageSets/Segmentation/SPLIT.txt"
)
SITE = "https://thor.robots.ox.ac.uk/pascal/VOC"

# The archives and their MD5 as torchvision publishes them (torchvision/datasets/voc.py, release 0.28). Counts that the
# fact sheet of this project does not have are 0.
_YEARS = {
    "2007": (("VOCtrainval_06-Nov-2007.tar", "c52e279531787c972589f7e41ab4ae64"),
             ("VOCtest_06-Nov-2007.tar", "b6e924de25625d8de591ea690078ad9f")),
    "2008": (("VOCtrainval_14-Jul-2008.tar", "2629fa636546599198acfcfbfcf1904a"),),
    "2009": (("VOCtrainval_11-May-2009.tar", "a3e00b113cfcfebf17e343f59da3caa1"),),
    "2010": (("VOCtrainval_03-May-2010.tar", "da459979d0c395079b5c75ee67908abb"),),
    "2011": (("VOCtrainval_25-May-2011.tar", "6c3384ef61512963050cb5d687e5bf1e"),),
    "2012": (("VOCtrainval_11-May-2012.tar", "6cd6e144f989b92b3379bac3b3de84fd"),),
}  # fmt: skip
_COUNTS = {
    "2011": {"train": 1112, "val": 1111, "trainval": 2223, "test": 0, LEAK_FREE: 736},
    "2012": {"train": 1464, "val": 1449, "trainval": 2913, "test": 1456, LEAK_FREE: 0},
}


def read(about: DatasetInfo, root: Path, split: str) -> Split:
    """The names of one list, with their photographs and palette PNGs."""
    folder = folder_of(about, root)
    names = read_list(about, _list(about, folder, split))
    images = files_of(about, split, names, folder / "JPEGImages", ".jpg")
    masks = [] if split in about.unlabelled else files_of(about, split, names, folder / "SegmentationClass", ".png")
    return Split(tuple(names), *one_each(images, masks), read_photograph, read_palette)


def folder_of(about: DatasetInfo, root: Path) -> Path:
    """The folder of the year: itself, or where the archives unpack it."""
    year = about.name.removeprefix("voc")
    candidates = (".", f"VOC{year}", f"VOCdevkit/VOC{year}", f"TrainVal/VOCdevkit/VOC{year}")
    return about.locate(root, candidates, "JPEGImages", "SegmentationClass", "ImageSets/Segmentation")


def _list(about: DatasetInfo, folder: Path, split: str) -> Path:
    path = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
    if path.is_file():
        return path
    if split == LEAK_FREE:
        raise UsageError(
            f"{shown(path)}: the list of VOC2011 val without SBD train is not there; write it with "
            f"fullconv data {LEAK_FREE} {about.name}:DIR sbd:DIR"
        )
    if split in about.unlabelled:
        raise UsageError(f"{shown(path)}: no such list; the test images are to be had at {about.home} after signing up")
    raise UsageError(f"{shown(path)}: no such list; the copy is incomplete, {about.source}")


def read_photograph(files: tuple[Path, ...]) -> Label:
    """The photograph, (H, W, 3)."""
    return read_image(files[0])


def read_palette(file: Path, task: str) -> Label:
    """The indices of a palette PNG; a picture of the palette's colours is refused with the reason."""
    label = read_label(file).values
    if label.ndim == 3:
        raise UsageError(f"{shown(file)}: a colour picture, not indices; take the original palette PNG")
    return label


ABOUT = tuple(
    DatasetInfo(
        name=f"voc{year}",
        title=f"PASCAL VOC {year}, segmentation",
        tasks={SEMANTIC: VOC},
        splits=_COUNTS.get(year, {"train": 0, "val": 0, "trainval": 0, "test": 0}),
        form=FORM,
        citation=(
            "Everingham, Van Gool, Williams, Winn, Zisserman: The PASCAL Visual Object Classes (VOC) Challenge, "
            "IJCV 2010"
        ),
        terms="photographs of Flickr, under Flickr's terms of use",
        home=f"http://host.robots.ox.ac.uk/pascal/VOC/voc{year}/",
        files=tuple(Published(f"{SITE}/voc{year}/{name}", checksum=f"md5 {md5}") for name, md5 in archives),
        read=read,
        photographs="pascal",
        unlabelled=() if year == "2007" else ("test",),
    )
    for year, archives in _YEARS.items()
)
