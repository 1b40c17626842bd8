"""Run by torchrun: the confusion matrix of N samples on all processes, for N = 1 .. 20; the first process prints how
many are equal to those of one process, and the most images that a process had of the last.
"""

import sys

import numpy as np
import torch

from fullconv.config import InputConvention, ModelConfig
from fullconv.data.dataset import Sample
from fullconv.distributed import join, leave
from fullconv.evaluation.evaluate import evaluate
from fullconv.inference.predictor import Predictor
from fullconv.labels import LabelSpace
from fullconv.weights.checkpoint import Header

LABELS = LabelSpace(("background", "one", "two"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)))


class Scenes:
    """Labels at random, of which the net sees the truth with some noise."""

    labels = LABELS

    def __init__(self, length):
        self.length, self.asked = length, 0

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.asked += 1
        rng = np.random.default_rng([self.length, index])
        size = tuple(rng.integers(3, 9, 2))
        label = rng.integers(0, 3, size).astype(np.uint8)
        seen = np.where(rng.random(size) < 0.7, label, rng.integers(0, 3, size))
        label[rng.random(size) < 0.1] = 255
        return Sample(np.repeat(seen[:, :, None], 3, 2).astype(np.uint8), label, str(index))


class Eyes(torch.nn.Module):
    """Says the class that stands in the pixel."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return torch.nn.functional.one_hot(x[:, 0].round().long(), 3).permute(0, 3, 1, 2).float()


plain = InputConvention("rgb", (0.0,) * 3, (1.0,) * 3)
predictor = Predictor(Eyes(), Header(ModelConfig(num_classes=3), LABELS, plain))
processes = join(30)
equal = 0
for number in range(1, 21):
    whole, mine = evaluate(predictor, Scenes(number)), Scenes(number)
    equal += evaluate(predictor, mine, processes=processes) == whole
    assert mine.asked == len(range(processes.rank, number, processes.size))
if processes.first:
    print("equal", equal, "of 20 on", processes.size, file=sys.stdout, flush=True)
leave(processes)
