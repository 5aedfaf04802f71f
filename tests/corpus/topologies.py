"""One small network for each way in which channels hang together."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from .convolutions import (
    bottleneck,
    conv_chain,
    conv_chain_batch_norm,
    dense,
    depthwise,
    flatten_to_gemm,
    grouped,
    interleaved,
    one_dimensional,
    padded_residual,
    residual,
    residual_batch_norm,
    shuffle,
    split_concat,
    squeeze_excitation,
    three_dimensional,
    unet,
)  # fmt: skip
from .layers import (
    behind,
    computed_shape,
    inner_graph,
    local_function,
    loop,
    mlp,
    quantized,
    recurrent,
    shape_of_another,
    tied,
    zero_state,
)  # fmt: skip
from .transformers import (
    attention,
    encoder,
    mean_square_norm,
    mixer,
    norm_after_norm,
    token_on_zeros,
    variance_norm,
    vision_transformer,
    written_out_layer_norm,
)  # fmt: skip

TOPOLOGIES: dict[str, tuple[Callable[[], ir.Model], float]] = {
    "conv chain": (lambda: conv_chain(128, 128), 0.26),
    "conv chain, batch norm": (lambda: conv_chain_batch_norm(128, 128), 0.26),
    "residual": (residual, 0.30),
    "residual, batch norm": (residual_batch_norm, 0.30),
    "padded residual": (padded_residual, 0.30),
    "dense": (dense, 0.30),
    "depthwise": (depthwise, 0.35),
    "squeeze and excitation": (squeeze_excitation, 0.27),
    "shuffle": (shuffle, 0.35),
    "flatten to gemm": (flatten_to_gemm, 0.35),
    "split concat": (split_concat, 0.35),
    "interleaved": (interleaved, 0.35),
    "gru": (lambda: recurrent("GRU", 3, 1), 0.35),
    "gru, both directions": (lambda: recurrent("GRU", 3, 2), 0.35),
    "lstm": (lambda: recurrent("LSTM", 4, 1), 0.35),
    "lstm, both directions": (lambda: recurrent("LSTM", 4, 2), 0.35),
    "lstm, states of zeros": (zero_state, 0.37),
    "rnn": (lambda: recurrent("RNN", 1, 1), 0.35),
    "attention": (attention, 0.35),
    "attention, shared keys": (lambda: attention(shared=True), 0.35),
    "encoder": (encoder, 0.35),
    "vision transformer": (vision_transformer, 0.35),
    "norm after norm": (norm_after_norm, 0.46),
    "mean square norm": (mean_square_norm, 0.35),
    "written out layer norm": (written_out_layer_norm, 0.35),
    "variance norm": (variance_norm, 0.35),
    "mixer": (mixer, 0.35),
    "token on zeros": (token_on_zeros, 0.36),
    "unet": (unet, 0.35),
    "grouped": (grouped, 0.50),
    "bottleneck, grouped and dilated": (bottleneck, 0.35),
    "one-dimensional": (one_dimensional, 0.35),
    "three-dimensional": (three_dimensional, 0.35),
    "mlp": (mlp, 0.38),
    "tied": (tied, 0.35),
    "behind": (lambda: behind(64), 0.35),
    "quantized": (quantized, 0.35),
    "computed shape": (computed_shape, 0.50),
    "shape of another": (shape_of_another, 0.70),
    "inner graph": (inner_graph, 0.64),
    "loop": (loop, 0.75),
    "local function": (local_function, 0.75),
}
"""Name → (graph, the largest share of parameters that may be left at sparsity 0.5). Where only half of two layers that
are all there is can go, or an inner graph holds channels, more stays."""
