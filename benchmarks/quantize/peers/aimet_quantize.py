"""AIMET for ONNX: per channel, exported as QDQ with integer weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aimet_onnx
import onnx
import opsets
from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
from aimet_onnx.cross_layer_equalization import equalize_model

CONFIG = Path(aimet_onnx.__file__).parent / "common/quantsim_config/default_config_per_channel.json"


def quantize(
    model: Path,
    feeds: list[dict[str, Any]],
    output: Path,
    equalise: bool = False,
    adaround: bool = False,
    opset: int | None = 17,
) -> None:
    """Quantize, with cross-layer equalisation and learned rounding if asked for.

    BatchNormalization is folded first, as its guide says; without, little is left of a model.
    """
    source = opsets.load(model, opset)
    if equalise:
        equalize_model(source)  # which folds too
    else:
        fold_all_batch_norms_to_weight(source)
    sim = aimet_onnx.QuantizationSimModel(source, config_file=str(CONFIG), providers=["CPUExecutionProvider"])
    if adaround:
        aimet_onnx.apply_adaround(sim, feeds)
    sim.compute_encodings(feeds)
    onnx.save(sim.to_onnx_qdq(export_int32_bias=True, prequantize_constants=True), output)
