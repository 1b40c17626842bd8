"""What is given to predict: files, folders, patterns, lists, videos, published sets, as one list of inputs."""

from __future__ import annotations

import codecs
import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullconv import distributed
from fullconv.errors import UsageError, shown

if TYPE_CHECKING:
    from fullconv.data.dataset import Image
    from fullconv.inference.model import Model

Found = tuple[Path, Path]
"""A file, and the path of its output below the folder of the outputs, without its suffix."""


@dataclass(frozen=True)
class Input:
    """One thing to predict: the name of its output, where it is from, and how a model reads it.

    video: its file, of a video; then `read` is not called. file: that of an image which is one as it is.
    """

    name: str
    source: str
    read: Callable[[Model], Image]
    video: Path | None = None
    file: Path | None = None


def gather(words: Sequence[str], out: Path | None, recursive: bool = False) -> list[Input]:
    """The inputs that words name, in their order: files, folders, patterns, ``@LIST``.

    The name of an output is the stem of its file, or the whole name where two share a stem; with `recursive` the
    subfolder stands before it. `out` is not searched for images. Raises `UsageError` for what is not there, a folder
    without images, a pattern that fits nothing, or two files of one output.
    """
    from fullconv.io.video import is_video

    found: list[Found] = []
    for word in words:
        if word.startswith("@") and not Path(word).exists():
            found += _of_list(Path(word[1:]), out, recursive)
        else:
            found += _of_word(word, out, recursive)
    found = list(dict.fromkeys(found))
    stems = Counter(str(place) for _, place in found)
    names = [str(place) if stems[str(place)] == 1 else str(place.with_name(file.name)) for file, place in found]
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise UsageError(
            f"'{shown(twice)}': two inputs have this name and would take one output; predict their folders one by one"
        )
    return [
        Input(
            Path(name).as_posix(),
            str(file),
            partial(_read_file, file),
            *((file, None) if is_video(file) else (None, file)),
        )
        for name, (file, _) in zip(names, found, strict=True)
    ]


def of_shard(inputs: list[Input], number: int, count: int) -> list[Input]:
    """Those of part `number` of `count`, from 1: of the sorted list each `count`-th. The parts share nothing and are
    everything, wherever the list was made.
    """
    order = sorted(range(len(inputs)), key=lambda k: (inputs[k].name, inputs[k].source))
    mine = set(order[number - 1 :: count])
    return [given for k, given in enumerate(inputs) if k in mine]


def part_of(shard: str | None) -> tuple[int, int]:
    """Return which part of how many this process predicts: that of ``I/N``, or under torchrun its own.

    >>> part_of("2/3")
    (2, 3)
    """
    if shard is None:
        rank, size = distributed.place()
        return rank + 1, size
    number, _, count = shard.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UsageError(f"--shard {shard}: give which part of how many, 1/4 to 4/4")
    return int(number), int(count)


def of_images(images: Sequence[Any]) -> list[Input]:
    """Return images that are in memory as inputs, which are named by their numbers from 1."""
    return [
        Input(f"{number:06d}", f"image {number}", partial(_given, image))
        for number, image in enumerate(images, start=1)
    ]


def of_dataset(words: Sequence[str], split: str | None, competition: str | None) -> list[Input]:
    """The images of a published set, where that is the one word; else nothing."""
    from fullconv.datasets.published.catalog import named

    official = named(words[0]) if len(words) == 1 else None
    if official is None:
        if split is not None or competition is not None:
            flag = "--split" if split is not None else "--submission"
            raise UsageError(f"{flag} belongs to a published set; give NAME:DIR as the one INPUT, or leave it out")
        return []
    if competition is not None and not official.about.name.startswith("voc"):
        raise UsageError(f"--submission: {official.about.name} has no such server; leave it out")
    data = official.open(split or official.about.val)
    sources = zip(data.files.names, data.files.images, strict=True)
    return [Input(name, str(files[0]), partial(_read_sample, data, k)) for k, (name, files) in enumerate(sources)]


def _given(image: Any, model: Model) -> Image:
    from fullconv.inference.preprocess import as_input

    return as_input(image, model.header.input)


def _read_file(file: Path, model: Model) -> Image:
    return model.read(file)


def _read_sample(data: Any, number: int, model: Model) -> Image:
    image: Image = data.image(number)
    return image


def _of_word(word: str, out: Path | None, recursive: bool) -> list[Found]:
    path = Path(word)
    if path.is_dir():
        return _of_folder(path, out, recursive)
    if path.exists():
        return [(path, Path(path.stem))]
    if glob.has_magic(word):
        return list(_of_pattern(word))
    near = next(parent for parent in path.absolute().parents if parent.exists())
    raise UsageError(f"{shown(path)}: there is no such file or folder; the nearest that exists is {shown(near)}")


def _of_pattern(pattern: str) -> Iterator[Found]:
    """The images and videos that fit a pattern which the shell left as it is."""
    from fullconv.datasets.folder.layouts import IMAGE_SUFFIXES
    from fullconv.io.video import VIDEO_SUFFIXES

    fits = sorted(Path(file) for file in glob.glob(pattern, recursive=True))  # noqa: PTH207 - ** and absolute patterns
    files = [file for file in fits if file.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES and file.is_file()]
    if not files:
        raise UsageError(f"{shown(pattern)}: no image or video fits this pattern; look at the folder and the quotes")
    for file in files:
        yield file, Path(file.stem)


def _of_folder(folder: Path, out: Path | None, recursive: bool) -> list[Found]:
    """The images in a folder; those of its subfolders too where that is wanted, but not what is written there."""
    from fullconv.datasets.folder.layouts import IMAGE_SUFFIXES

    found: list[Found] = []
    for place, below, names in os.walk(folder):
        here = Path(place)
        below[:] = sorted(name for name in below if recursive and not _same(here / name, out))
        files = sorted(here / name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES)
        found += [(file, (file.parent / file.stem).relative_to(folder)) for file in files if file.is_file()]
    if not found:
        raise UsageError(
            f"{shown(folder)}: no images in this folder; give a folder of {', '.join(IMAGE_SUFFIXES)} files, "
            "--recursive for its subfolders, or a pattern such as 'DIR/*.mp4' for videos"
        )
    return found


def _same(one: Path, other: Path | None) -> bool:
    return other is not None and other.exists() and one.samefile(other)


def _of_list(file: Path, out: Path | None, recursive: bool) -> list[Found]:
    """What a list names, one path a line, from the folder that it lies in."""
    from fullconv.io.decoding import open_file

    with open_file(file) as stream:
        text = stream.read().removeprefix(codecs.BOM_UTF8)
    found: list[Found] = []
    for number, line in enumerate(text.split(b"\n"), start=1):
        word = os.fsdecode(line.rstrip(b"\r"))
        if not word.strip():
            continue
        path = file.parent / word
        if "\0" in word or not path.exists():
            raise UsageError(f"{shown(file)}: line {number}: {shown(word)}: there is no such file; paths are from the "
                             "folder of the list")  # fmt: skip
        found += _of_word(str(path), out, recursive)
    if not found:
        raise UsageError(f"{shown(file)}: the list is empty; give one path a line")
    return found
