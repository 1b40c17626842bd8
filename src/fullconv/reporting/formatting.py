"""Numbers, settings and names as one would write them in a sentence or a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def plain(value: Any) -> str:
    """A setting as one would write it.

    >>> plain([288, 384]), plain(True), plain(None), plain([103.53, 116.28])
    ('288, 384', 'true', '-', '103.53, 116.28')
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def data_name(data: str) -> str:
    """A data set in a title.

    >>> data_name("voc2012:/data/VOC2012"), data_name("pictures/leaves"), data_name("digits")
    ('voc2012', 'leaves', 'digits')
    """
    name, colon, _ = data.partition(":")
    return name if colon and "/" not in name and len(name) > 1 else Path(data).name or data


def with_sign(number: str) -> str:
    """A number from `percent` with its sign.

    >>> with_sign("62.7"), with_sign("-")
    ('62.7 %', '-')
    """
    return number if number == "-" else f"{number} %"


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun.

    >>> counted(1, "step"), counted(1000, "step"), counted(2, "class", "classes")
    ('1 step', '1,000 steps', '2 classes')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """A time to be read.

    >>> duration(4.23), duration(125), duration(7260)
    ('4.2 s', '2 min 5 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def clock(seconds: float) -> str:
    """A time in a column of times: hours, minutes, seconds.

    >>> clock(47.4), clock(7325)
    ('0:00:47', '2:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
