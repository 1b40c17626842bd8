from fullconv.checking.check_dataset import check_dataset as check
from fullconv.config import InputConvention as InputConvention
from fullconv.config import ModelConfig as ModelConfig
from fullconv.config import TrainConfig as TrainConfig
from fullconv.data.dataset import Sample as Sample
from fullconv.data.dataset import adapt as adapt
from fullconv.datasets.open_dataset import open_dataset as open_dataset
from fullconv.errors import FullconvError as FullconvError
from fullconv.evaluation.evaluate import evaluate as evaluate
from fullconv.exporting.export import export as export
from fullconv.geometry import AxisMap as AxisMap
from fullconv.geometry import Window as Window
from fullconv.inference.predict import predict as predict
from fullconv.inference.predictor import Predictor as Predictor
from fullconv.inference.predictor import load as load
from fullconv.inference.segmentation import Segmentation as Segmentation
from fullconv.labels import LabelSpace as LabelSpace
from fullconv.metrics import Scores as Scores
from fullconv.metrics import confusion_matrix as confusion_matrix
from fullconv.metrics import scores as scores
from fullconv.models.build import build as build
from fullconv.models.convolutionalize import convolutionalize as convolutionalize
from fullconv.models.dense_scores import rarefy as rarefy
from fullconv.models.dense_scores import shift_and_stitch as shift_and_stitch
from fullconv.models.fcn import FCN as FCN
from fullconv.models.trace import walk as walk
from fullconv.optimize.autotune import compile as compile
from fullconv.reporting.train_and_report import train as train
from fullconv.training.loop import fit as fit
from fullconv.weights.checkpoint import verify as verify
from fullconv.weights.convert import convert_source as convert

__version__: str
__all__ = [
    "FCN", "AxisMap", "FullconvError", "InputConvention", "LabelSpace", "ModelConfig", "Predictor", "Sample", "Scores",
    "Segmentation", "TrainConfig", "Window", "adapt", "build", "check", "compile", "confusion_matrix", "convert",
    "convolutionalize", "evaluate", "export", "fit", "load", "open_dataset", "predict", "rarefy", "scores",
    "shift_and_stitch", "train", "verify", "walk",
]  # fmt: skip
