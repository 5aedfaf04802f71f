"""Losses by the names that options have for them."""

from __future__ import annotations

from onnxcompress.training import CrossEntropy, Loss

from .attention import Attention
from .cosine import Cosine
from .dist import Correlation
from .dkd import Decoupled
from .feature_loss import FeatureLoss
from .fitnets import Hint
from .hidden_cosine import HiddenCosine
from .huber import Huber
from .kl import KullbackLeibler
from .mse import SquaredError
from .output_loss import OutputLoss
from .regressor import Regressor
from .tensors import Kind

OUTPUT_LOSSES: dict[str, type[OutputLoss]] = {
    "kl": KullbackLeibler,
    "dkd": Decoupled,
    "dist": Correlation,
    "mse": SquaredError,
    "huber": Huber,
    "cosine": Cosine,
}
"""Between an output and the teacher's."""

FEATURE_LOSSES: dict[str, type[FeatureLoss]] = {
    "fitnets": Hint,
    "attention": Attention,
    "hidden-cosine": HiddenCosine,
    "regressor": Regressor,
}
"""Between an inner tensor and one of the teacher."""

LABEL_LOSS = "cross-entropy"
"""Between an output and the labels."""

LOSSES: dict[str, type[Loss]] = {**OUTPUT_LOSSES, LABEL_LOSS: CrossEntropy, **FEATURE_LOSSES}

USUAL: dict[Kind, str] = {"classes": "kl", "binary": "kl", "embedding": "cosine", "values": "huber"}
"""What an output is compared by where nothing is said."""

USUAL_FEATURE = "fitnets"
"""What inner tensors are compared by where nothing is said."""
