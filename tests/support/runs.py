"""Short training runs on digits."""

from fullconv.config import CONVENTIONS, ModelConfig, TrainConfig
from fullconv.datasets.open_dataset import open_dataset
from fullconv.training.run import prepare
from fullconv.training.saved_state import newest_state

MODEL = ModelConfig("vgg11", stride=8, width=1 / 32, native_size=32)


CONFIG = TrainConfig(
    steps=6, batch_size=2, lr=0.01, crop=(32, 32), scale=1.5, flip=True, save_every=1, eval_every=3, workers=0
)


def start(folder, data, config=CONFIG, resume=False, model=MODEL, weights=None):
    train, val = open_dataset(data, "train"), open_dataset(data, "val")
    return prepare(folder, str(data), train, val, model, config, CONVENTIONS["torchvision"], weights, resume)


def final(folder):
    return newest_state(folder / "last")[1]["sha256"]
