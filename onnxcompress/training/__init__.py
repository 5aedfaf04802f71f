"""Gradient steps, in an interpreter of their own.

onnxruntime can train on a CPU in its release 1.19.2 only, which installs over the `onnxruntime` that everything else
uses. So it never enters the user's environment: `launch.train` writes the graph to train (`objective`), the weights
and the samples to a folder, and has uv run `worker.py` there in an environment that uv makes and keeps. The weights
come back in a checkpoint file.
"""

from .gradients import Trainable
from .launch import rehearse, train
from .loss import LOGITS, Arrays, Behind, CrossEntropy, Loss, Shapes
from .objective import computes, logits_of, teacher_arrays, trainable_weights
from .saliency import Saliency, class_axis, measure_saliency
from .settings import Rehearsed, Settings, Trained
from .sort import Sorted, sort_samples

__all__ = [
    "LOGITS",
    "Arrays",
    "Behind",
    "CrossEntropy",
    "Loss",
    "Rehearsed",
    "Saliency",
    "Settings",
    "Shapes",
    "Sorted",
    "Trainable",
    "Trained",
    "class_axis",
    "computes",
    "logits_of",
    "measure_saliency",
    "rehearse",
    "sort_samples",
    "teacher_arrays",
    "train",
    "trainable_weights",
]
