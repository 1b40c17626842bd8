"""Figure 5 (section 4.3): the curves of the loss for whole images and for sampled cells, against iterations and against
images processed and seconds.
"""

from __future__ import annotations

from fullconv.reproduce import patch_sampling
from fullconv.reproduce.result import Result, Say
from fullconv.reproduce.setting import Setting


def run(setting: Setting, say: Say) -> Result:
    """Train as `sampling` does, for the curves."""
    claim = (
        "Section 4.3, figure 5: whole images converge as sampled patches do by iterations, and faster by images "
        "processed."
    )
    return patch_sampling.result("figure5", claim, setting, say)
