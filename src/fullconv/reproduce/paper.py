"""The paper's numbers as data, each with where it stands and how well it is known.

`tables` holds them and looks them up. This room knows nothing of nets or of data: it is what measurements are laid
beside.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

EVIDENCE = {
    "P": "printed in the paper (arXiv 1411.4038 v2, CVPR 2015)",
    "R": "from the authors' released code, or the journal version's abstract",
    "J+": "from the journal version (arXiv 1605.06211), confirmed by a second source",
    "J?": "recalled of the journal version, not confirmed",
    "X": "computed from printed numbers",
}
"""What each tag means."""

UNVERIFIED = "unverified"
"""The mark of a number that nobody has confirmed, wherever it is printed."""


@dataclass(frozen=True)
class Entry:
    """One number of the paper.

    value: in `unit` (percent, ms, pixels, or M for millions; empty for a count or a ratio). source: the section or
    table that it stands in. tag: a key of `EVIDENCE`.

    >>> str(Entry(62.7, "percent", "table 2", "P")), str(Entry(84.5, "percent", "journal version", "J?"))
    ('62.7', '84.5 unverified')
    """

    value: float
    unit: str
    source: str
    tag: str

    def __post_init__(self) -> None:
        if self.tag not in EVIDENCE:
            raise ValueError(f"tag '{self.tag}'; one of {', '.join(EVIDENCE)}")

    @property
    def unverified(self) -> bool:
        """Whether nobody has confirmed the number, so that it must not be printed as a fact."""
        return self.tag == "J?"

    def __str__(self) -> str:
        value = f"{self.value:.1f}" if self.unit == "percent" else f"{self.value:g}"
        return value + (f" {UNVERIFIED}" if self.unverified else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the mark among them."""
        return {**asdict(self), UNVERIFIED: self.unverified}
