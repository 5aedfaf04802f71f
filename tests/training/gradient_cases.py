"""Forms of operators whose gradients are compared with differences, and forms that are refused.

A line is the body of a graph that makes `y` of `x`, ``float[N,4,6,6]``, and of `p`, which is positive; all that has no
producer is in `constants`. A number in front is the opset, 17 otherwise.
"""

from __future__ import annotations

import numpy as np

WINDOWS = """
y = Conv(x, k3, b5)
y = Conv<auto_pad = "SAME_UPPER">(x, k3, b5)
y = Conv<auto_pad = "SAME_LOWER">(x, k2, b5)
y = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, k3, b5)
y = Conv<auto_pad = "SAME_LOWER", strides = [2, 3]>(x, k23, b5)
y = Conv<auto_pad = "SAME_UPPER", group = 4, strides = [2, 2]>(x, kd)
y = Conv<auto_pad = "VALID", strides = [2, 1]>(x, k3, b5)
y = Conv<auto_pad = "NOTSET", pads = [1, 0, 2, 1]>(x, k3, b5)
y = Conv<dilations = [2, 1], pads = [2, 1, 2, 1]>(x, k3, b5)
y = Conv<group = 2, strides = [2, 3]>(x, kg, b6)
q = Reshape(x, line); y = Conv<auto_pad = "SAME_LOWER", strides = [2]>(q, k1d, b5)
q = Reshape(x, solid); y = Conv<auto_pad = "SAME_UPPER", strides = [1, 2, 1]>(q, k3d, b5)
t = Transpose<perm = [1, 0, 2, 3]>(kt); y = Conv<auto_pad = "SAME_UPPER">(x, t)
y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(x)
y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER">(x)
y = MaxPool<kernel_shape = [2, 2], auto_pad = "SAME_LOWER">(x)
y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], auto_pad = "VALID">(x)
y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>(x)
y = MaxPool<kernel_shape = [2, 2], dilations = [2, 2]>(x)
y = MaxPool<kernel_shape = [2, 2], storage_order = 1>(x)
y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x)
y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(x)
y = AveragePool<kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER">(x)
y = AveragePool<kernel_shape = [2, 2], auto_pad = "SAME_LOWER", count_include_pad = 1>(x)
y = AveragePool<kernel_shape = [3, 3], auto_pad = "VALID">(x)
y = AveragePool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>(x)
19: y = AveragePool<kernel_shape = [2, 2], dilations = [2, 2]>(x)
y = GlobalAveragePool(x)
y = GlobalMaxPool(x)
"""

PRODUCTS = """
f = Flatten(x); y = Gemm<alpha = 0.5, beta = 2.0>(f, dense, c5)
f = Flatten(x); y = Gemm<beta = 0.0>(f, dense, c5)
f = Flatten(x); y = Gemm<transB = 1, alpha = 0.5>(f, dense_t, c15)
f = Flatten(x); y = Gemm(f, dense)
f = Flatten(x); y = Gemm<beta = 0.5>(f, dense, c31)
f = Flatten(x); y = Gemm<beta = 0.5>(f, dense, half)
f = Flatten(x); y = Gemm<beta = 0.5>(f, dense, c35)
f = Flatten(x); t = Transpose(f); y = Gemm<transA = 1, transB = 1, alpha = 0.5>(t, dense_t, c5)
y = MatMul(x, m67)
y = MatMul(x, v6)
y = MatMul(v6, x)
y = MatMul(x, m467)
y = MatMul(x, m3467)
y = MatMul(m456, x)
y = MatMul(x, p)
a = ReduceMean<axes = [1], keepdims = 0>(p); b = ReduceMean<axes = [0], keepdims = 0>(a); y = MatMul(b, x)
a = ReduceMean<axes = [0, 1, 2], keepdims = 0>(x); y = MatMul(p, a)
"""

NORMS = """
11: y = Softmax(x)
11: y = Softmax<axis = 2>(x)
9: y = LogSoftmax<axis = 3>(x)
y = Softmax<axis = -2>(x)
y = LogSoftmax<axis = 2>(x)
y = LayerNormalization<epsilon = 0.1>(x, s6, h6)
y = LayerNormalization(x, s6)
y, m, i = LayerNormalization<axis = 2, epsilon = 0.1>(x, s66)
a, m, i = LayerNormalization(x, s6); b = Mul(a, m); y = Mul(b, i)
a, m, i = LayerNormalization<axis = -2>(x, s66); y = Mul(m, i)
y = InstanceNormalization<epsilon = 0.1>(x, s4, h4)
q = Reshape(x, line); y = InstanceNormalization(q, s4, h4)
23: y = RMSNormalization<epsilon = 0.1>(x, s6)
23: y = RMSNormalization<axis = -2>(x, s66)
y = SimplifiedLayerNormalization<epsilon = 0.1>(x, s6)
y = LayerNormalization<axis = -2>(x, s66, h66)
y = LayerNormalization<axis = 1>(x, s466, h466)
y = BatchNormalization<epsilon = 0.1>(x, s4, h4, mean, var)
9: y = BatchNormalization<epsilon = 0.1>(x, s4, h4, mean, var)
"""

ELEMENTS = """
y = Div(x, p)
a = ReduceMean<axes = [1, 3]>(p); y = Div(x, a)
a = ReduceMean<axes = [1, 3]>(x); y = Div(a, p)
a = ReduceMean<axes = [1, 3]>(p); y = Sub(a, x)
a = Add(x, s411); y = Mul(a, s6)
a = Add(s61, x); y = Mul(s3466, a)
y = Mul(x, x)
y = Add(p, p)
y = Pow(x, three)
y = Pow(x, two_i)
y = Pow(p, s6)
y = Pow(half, x)
y = Min(x, s61)
y = Max(x, p, s6)
y = Where(condition, x, p)
y = Where(condition_6, x, half)
a = ReduceMean<axes = [2]>(x); y = Where(condition, a, p)
a = ReduceMean<axes = [0, 2]>(x); b = ReduceMean<axes = [1, 3]>(p); y = Where(condition, a, b)
y = Clip(x, low)
y = Clip(x, , high)
y = Clip(x)
9: y = Clip<min = -0.3, max = 0.3>(x)
y = LeakyRelu<alpha = 0.2>(x)
20: y = Gelu<approximate = "tanh">(x)
r = Relu(x); s = Mul(r, r); y = Sqrt(s)
a = Greater(x, half); y = Where(a, x, p)
a = ArgMax<axis = 1>(x); g = Cast<to = 1>(a); y = Mul(g, x)
y = CastLike(x, half)
y = Mean(x, p, s61)
y = Sum(x, p, s61)
y = Exp(x)
y = Log(p)
y = Neg(x)
y = Erf(x)
y = Reciprocal(p)
y = Sigmoid(x)
y = Tanh(x)
y = Identity(x)
y = Sin(x)
y = Cos(x)
y = Tan(x)
a = Mul(x, half); y = Asin(a)
a = Mul(x, half); y = Acos(a)
y = Atan(x)
y = Sinh(x)
y = Cosh(x)
y = Asinh(x)
a = Add(p, one_f); y = Acosh(a)
a = Mul(x, half); y = Atanh(a)
y = HardSwish(x)
a = Mul(x, five); y = HardSwish(a)
y = HardSigmoid(x)
a = Mul(x, five); y = HardSigmoid<alpha = 0.3, beta = 0.39781>(a)
y = Elu<alpha = 0.5>(x)
y = Selu(x)
y = Selu<alpha = 0.5, gamma = 2.0>(x)
y = Celu<alpha = 0.5>(x)
y = Softplus(x)
y = Softsign(x)
18: y = Mish(x)
y = PRelu(x, s411)
y = PRelu(x, half)
y = PRelu(x, s6)
y = ThresholdedRelu<alpha = 0.25>(x)
y = Shrink<lambd = 0.31, bias = 0.2>(x)
20: y = Gelu(x)
24: y = Swish(x)
24: y = Swish<alpha = 1.5>(x)
y = com.microsoft.Gelu(x)
y = com.microsoft.FastGelu(x)
y = com.microsoft.QuickGelu(x)
y = com.microsoft.QuickGelu<alpha = 0.7>(x)
"""

REDUCING = ("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSumSquare")
REDUCTIONS = """
y = {}<axes = [2, 3]>(x)
a = {}<axes = [-1, 1], keepdims = 0>(x); y = Mul(a, a)
a = {}<keepdims = 0>(x); y = Mul(x, a)
a = {}(x); y = Mul(x, a)
18: y = {}<keepdims = 0>(x, axes_23)
18: a = {}<keepdims = 0>(x, minus_2); y = Mul(a, a)
18: a = {}<keepdims = 0>(x); y = Mul(x, a)
18: y = {}<noop_with_empty_axes = 1>(x)
18: y = {}<noop_with_empty_axes = 1>(x, empty)
18: a = {}(x, empty); y = Mul(x, a)
11: y = {}<axes = [1], keepdims = 0>(x)
"""

SUMS = """
y = ReduceSum<keepdims = 0>(x, axes_23)
y = ReduceSum<noop_with_empty_axes = 1>(x)
a = ReduceSum(x, empty); y = Mul(x, a)
11: y = ReduceSum<axes = [1], keepdims = 0>(x)
"""

MOVES = """
y = Gather<axis = -1>(x, picked)
y = Gather<axis = 2>(x, picked_2d)
y = Gather<axis = 2>(x, minus_2_scalar)
g = Gather<axis = 0>(s66, picked); q = ReduceMean<axes = [0]>(g); y = Mul(x, q)
y = GatherElements<axis = 1>(x, elements)
y = GatherND<batch_dims = 1>(x, positions_1)
y = ScatterElements<axis = 1>(x, permuted, p)
y = ScatterND(x, positions, updates)
y = Slice(x, minus_2, many, three_i)
y = Slice(x, zero_one, many_three)
y = Slice(x, one, many, minus_1, two_i)
9: y = Slice<starts = [1], ends = [3], axes = [2]>(x)
a, b = Split<axis = 1>(x, one_three); q = Gather<axis = 1>(b, two_i); y = Mul(a, q)
a, b = Split<axis = -1>(x); y = Mul(a, b)
18: a, b, c = Split<axis = -1, num_outputs = 3>(x); q = Mul(a, b); y = Mul(c, q)
y = Pad(x, pads, half)
y = Pad(x, negative_pads)
9: y = Pad<pads = [0, 0, 1, 2, 0, 0, 1, 0], value = 0.5>(x)
u = Unsqueeze(x, one); y = Expand(u, expanded)
a = ReduceMean<axes = [1, 3]>(x); y = Expand(a, one)
a = Expand(s6, whole); y = Mul(x, a)
y = Tile(x, repeats)
y = Concat<axis = -1>(x, p, x)
y = Reshape(x, joined)
f = Flatten<axis = 2>(x); y = Reshape(f, three_rows)
t = Transpose(x); y = Transpose(t)
t = Transpose<perm = [1, 2, 3, 0]>(x); u = Mul(t, t); y = Transpose<perm = [3, 0, 1, 2]>(u)
u = GlobalAveragePool(x); y = Squeeze(u)
11: u = Unsqueeze<axes = [1, 2]>(x); y = Squeeze<axes = [1]>(u)
y = Trilu<upper = 0>(x, minus_1_scalar)
y = Dropout(x)
y = Slice(x, minus_1, few, three_i, minus_1)
y = CumSum(x, two_scalar)
y = CumSum<exclusive = 1>(x, minus_1_scalar)
y = CumSum<exclusive = 1, reverse = 1>(x, two_scalar)
y = CumSum<reverse = 1>(x, one_scalar)
y = DepthToSpace<blocksize = 2>(x)
y = DepthToSpace<blocksize = 2, mode = "CRD">(x)
y = SpaceToDepth<blocksize = 3>(x)
y = ReverseSequence<batch_axis = 0, time_axis = 1>(x, lengths)
y, i = TopK<axis = 2>(x, three_i)
y, i = TopK<axis = 1, largest = 0>(x, two_i)
16: y = ScatterElements<axis = 1, reduction = "add">(x, permuted, p)
16: y = ScatterND<reduction = "add">(x, positions, updates)
a, b = Split<axis = 1>(x); y = Mul(a, a)
18: y = Pad(x, four_pads, half, axes_23)
"""

CONSTANTS = """
y = Resize<mode = "nearest">(x, , scales)
y = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">(x, , scales)
y = Resize<mode = "nearest", coordinate_transformation_mode = "align_corners">(x, , scales_odd)
y = Resize<mode = "nearest">(x, , , sizes)
y = Resize<mode = "linear">(x, , scales)
y = Resize<mode = "linear", coordinate_transformation_mode = "align_corners">(x, , scales_odd)
y = Resize<mode = "linear", coordinate_transformation_mode = "pytorch_half_pixel">(x, , , sizes)
y = Resize<coordinate_transformation_mode = "tf_crop_and_resize", mode = "linear">(x, roi, , sizes)
y = Resize<mode = "cubic">(x, , scales_odd)
y = Resize<mode = "cubic", cubic_coeff_a = -0.5, exclude_outside = 1>(x, , , sizes)
18: y = Resize<mode = "linear", axes = [3, 2]>(x, , two_scales)
18: y = Resize<mode = "linear", antialias = 1>(x, , , small)
y = Pad<mode = "reflect">(x, pads)
y = Pad<mode = "edge">(x, pads)
19: y = Pad<mode = "wrap">(x, pads)
18: y = Pad<mode = "reflect">(x, four_pads, , axes_23)
"""

EINSUMS = """
y = Einsum<equation = "bchw,wv->bchv">(x, m67)
y = Einsum<equation = "bchw, wv">(x, m67)
y = Einsum<equation = "bchw,bchv->bcwv">(x, p)
y = Einsum<equation = "bchw->bwhc">(x)
y = Einsum<equation = "bchw,c,hk->bk">(x, s4, s66)
y = Einsum<equation = "bchw,bdhw->bcd">(x, p)
"""

TRANSPOSED = """
y = ConvTranspose(x, transposed, b5)
y = ConvTranspose<strides = [2, 2]>(x, transposed)
y = ConvTranspose<strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]>(x, transposed)
y = ConvTranspose<strides = [2, 3], pads = [1, 0, 0, 2], dilations = [1, 2]>(x, transposed)
y = ConvTranspose<group = 2, strides = [2, 2]>(x, transposed, b10)
y = ConvTranspose<group = 4, strides = [2, 2], pads = [1, 1, 1, 1]>(x, transposed_4)
y = ConvTranspose<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, transposed)
y = ConvTranspose<auto_pad = "SAME_LOWER", strides = [2, 2]>(x, transposed)
y = ConvTranspose<auto_pad = "SAME_UPPER">(x, t2)
y = ConvTranspose<auto_pad = "SAME_LOWER">(x, t2)
y = ConvTranspose<auto_pad = "VALID">(x, t2)
y = ConvTranspose<output_shape = [12, 12], strides = [2, 2]>(x, transposed)
q = Reshape(x, line); y = ConvTranspose<strides = [2]>(q, t1d)
q = Reshape(x, solid); y = ConvTranspose<strides = [2, 1, 2]>(q, t3d)
"""

ROTARY = """
23: y = RotaryEmbedding(x, cosine_3, sine_3)
23: y = RotaryEmbedding<interleaved = 1>(x, cosine_3, sine_3)
23: y = RotaryEmbedding<rotary_embedding_dim = 4>(x, cosine_2, sine_2, places)
q = Reshape(x, line); y = com.microsoft.RotaryEmbedding(q, zero_i, cosine_18, sine_18)
q = Reshape(x, line); y = com.microsoft.RotaryEmbedding<num_heads = 6, interleaved = 1>(q, zero_i, cosine, sine)
"""

FUSED = """
y = com.microsoft.BiasGelu(x, s6)
y = com.microsoft.FastGelu(x, s6)
y = com.microsoft.FusedConv<activation = "Relu", pads = [1, 1, 1, 1]>(x, k3, b5)
y = com.microsoft.FusedConv<activation = "LeakyRelu", activation_params = [0.3]>(x, k3, b5)
y = com.microsoft.FusedConv<activation = "Clip", activation_params = [-0.2, 0.31]>(x, k3, b5)
c = Conv(x, k2, b5); y = com.microsoft.FusedConv<activation = "Tanh">(x, k2, b5, c)
f = Flatten(x); y = com.microsoft.FusedGemm<activation = "LeakyRelu", activation_alpha = 0.2>(f, dense, c5)
f = Flatten(x); y = com.microsoft.FusedGemm<activation = "Sigmoid", transB = 1, alpha = 0.5>(f, dense_t, c5)
y = com.microsoft.FusedMatMul<alpha = 0.5, transA = 1>(x, m67)
y = com.microsoft.FusedMatMul<transB = 1>(x, p)
e, i, t = com.microsoft.EmbedLayerNormalization(words, segments, s66, m66, two_rows, s6, h6); g = Add(e, t); {embedded}
e, i = com.microsoft.EmbedLayerNormalization(words, , s66, m66, , s6, h6, , swapped); g = Mul(e, e); {embedded}
"""

FEW_BITS = """
y = {product}<{of}, bits = 4>(q, bytes_4, block_scales)
y = {product}<{of}, bits = 4>(q, bytes_4, block_scales, points_4, , b5)
y = {product}<{of}, bits = 2>(q, bytes_2, block_scales, points_2)
t = {table}<{blocks}, bits = 4>(table_4, rows_36, table_scales, table_points); y = MatMul(q, t)
"""

OPERATORS = {
    "{product}": "com.microsoft.MatMulNBits",
    "{of}": "K = 36, N = 5, block_size = 16",
    "{table}": "com.microsoft.GatherBlockQuantized",
    "{blocks}": "gather_axis = 0, quantize_axis = 1, block_size = 16",
}

EMBEDDED = "a = ReduceMean<axes = [1, 2]>(g); b = Reshape(a, rows_first); y = Mul(x, b)"

SKIPS = """
y = com.microsoft.SkipLayerNormalization<epsilon = 0.1>(q, r, s36, h36, b36)
y, m, i, t = com.microsoft.SkipLayerNormalization<epsilon = 0.1>(q, q, s36)
a, m, i, t = com.microsoft.SkipLayerNormalization(q, r, s36, h36); y = Add(a, t)
y = com.microsoft.SkipSimplifiedLayerNormalization<epsilon = 0.1>(q, r, s36, b36)
a, m, i, t = com.microsoft.SkipSimplifiedLayerNormalization<epsilon = 0.1>(q, q, s36); y = Mul(a, t)
y = com.microsoft.Attention<num_heads = 3>(q, joint, b36)
y = com.microsoft.Attention<num_heads = 3, unidirectional = 1, scale = 0.7>(q, joint, b36)
y = com.microsoft.Attention<num_heads = 2, mask_filter_value = -100.0>(q, joint, b36, mask_2)
y = com.microsoft.Attention<num_heads = 2, qkv_hidden_sizes = [8, 8, 20]>(q, joint, b36, , , bias_4)
y = com.microsoft.MultiHeadAttention<num_heads = 3>(q, r, q)
y = com.microsoft.MultiHeadAttention<num_heads = 3>(q, q, q, b108, mask_2)
y = com.microsoft.MultiHeadAttention<num_heads = 2, scale = 0.3>(q, q, q, , , bias_4)
{grouped}<num_heads = 8, kv_num_heads = 8>(a, a, a, , , seen_3, total_4)
{turned} , , , , seen_3, total_4, cos_4, sin_4)
"""

GROUPED = "a = MatMul(q, to_64); y = com.microsoft.GroupQueryAttention"
TURNED = f"{GROUPED}<num_heads = 2, kv_num_heads = 1, do_rotary = 1, scale = 0.3>(a,"

COMPOSED = """
18: y = GroupNormalization<num_groups = 2, epsilon = 0.1>(x, s2, h2)
21: y = GroupNormalization<num_groups = 2, epsilon = 0.1>(x, s4, h4)
y, m, v = BatchNormalization<training_mode = 1, epsilon = 0.1>(x, s4, h4, mean, var)
y = MeanVarianceNormalization(x)
y = MeanVarianceNormalization<axes = [1, -1]>(x)
y = LpNormalization(x)
y = LpNormalization<axis = 1, p = 1>(x)
y = LRN<size = 3, alpha = 0.5, beta = 0.6, bias = 1.5>(x)
y = LpPool<kernel_shape = [2, 2], strides = [2, 1]>(x)
y = LpPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], p = 3>(x)
y = LpPool<kernel_shape = [3, 3], auto_pad = "SAME_UPPER", p = 1>(x)
19: y = LpPool<kernel_shape = [2, 2], dilations = [2, 2]>(x)
r = Relu(x); y = LpPool<kernel_shape = [1, 2]>(r)
y = GlobalLpPool(x)
y = GlobalLpPool<p = 3>(x)
y = Compress<axis = 2>(x, condition_6)
a = Compress<axis = 1>(x, condition_3); y = Mul(a, a)
g = Mul(grid, s1); y = GridSample(x, g)
g = Mul(grid, s1); y = GridSample<align_corners = 1, padding_mode = "border">(x, g)
y = GridSample<mode = "nearest">(x, grid)
20: y = GridSample<mode = "linear", padding_mode = "border">(x, grid)
20: y = GridSample<mode = "nearest", align_corners = 1>(x, grid)
23: y = Attention(x, p, x)
23: y = Attention<is_causal = 1, scale = 0.6>(x, p, x)
23: y = Attention(x, p, x, seen)
23: y = Attention(x, p, x, m66)
23: a, b = Split<axis = 1, num_outputs = 2>(p); y = Attention(x, a, b)
23: a, k, v = Attention<is_causal = 1>(x, p, x, , p, x); b = ReduceMean<keepdims = 1>(k, axes_23); y = Mul(a, b)
23: q = Reshape(x, line); r = Reshape(p, line); y = Attention<q_num_heads = 6, kv_num_heads = 6>(q, r, r)
"""

RECURRENT = """
a = LSTM<hidden_size = 5>(t, w_lstm, r_lstm, b_lstm); {one}
a, h = LSTM<hidden_size = 5, direction = "reverse">(t, w_lstm, r_lstm, , , h0, c0); {one}
a, h, c = LSTM<hidden_size = 5, direction = "bidirectional">(t, w_lstm2, r_lstm2, b_lstm2, lengths_4, h02, c02); {both}
a = GRU<hidden_size = 5>(t, w_gru, r_gru, b_gru); {one}
a = GRU<hidden_size = 5, linear_before_reset = 1>(t, w_gru, r_gru, b_gru, , h0); {one}
a, h = GRU<hidden_size = 5, linear_before_reset = 1, direction = "bidirectional">(t, w_gru2, r_gru2); {one}
a = RNN<hidden_size = 5>(t, w_rnn, r_rnn, b_rnn); {one}
a = RNN<hidden_size = 5, activations = ["Sigmoid"], direction = "reverse">(t, w_rnn, r_rnn, b_rnn, , h0); {one}
""".replace("{both}", "z = Concat<axis = 0>(h, c); y = Transpose<perm = [1, 0, 2]>(z)").replace(
    "{one}", "y = Transpose<perm = [2, 0, 1, 3]>(a)"
)

REFUSED = {
    '16: y = ScatterElements<axis = 1, reduction = "mul">(x, permuted, p)': "no gradient with the reduction 'mul'",
    '16: y = ScatterND<reduction = "mul">(x, positions, updates)': "no gradient with the reduction 'mul'",
    'y = Pad<mode = "reflect">(x, negative_pads)': "no gradient in reflect mode where it crops",
    "y = Dropout(x, half, true)": "no gradient in training mode",
    'y = Einsum<equation = "...w,wv->...v">(x, m67)': r"no gradient with '\.\.\.'",
    "y = Det(x)": "no gradient",
}
"""Line to what the reason says, behind the node's name."""


ONLY_NEW: tuple[str, ...] = ()
"""Operators that onnxruntime-training 1.19.2 has no kernel of, or a wrong one."""


def _named(line: str) -> str:
    for short, written in OPERATORS.items():
        line = line.replace(short, written)
    return line


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]


RIGHT = [
    *lines(PRODUCTS + NORMS + ELEMENTS + SUMS + MOVES + CONSTANTS + EINSUMS + TRANSPOSED + ROTARY + COMPOSED),
    *(line.replace("{embedded}", EMBEDDED) for line in lines(FUSED)),
    *(f"q = Reshape(x, line); {_named(line)}" for line in lines(FEW_BITS)),
    *(
        f"q = Reshape(x, line); r = Reshape(p, line); {line}".replace("{turned}", TURNED).replace("{grouped}", GROUPED)
        for line in lines(SKIPS)
    ),
    *(f"q = Reshape(x, line); t = Transpose<perm = [1, 0, 2]>(q); {line}" for line in lines(RECURRENT)),
    *(line.format(op) for op in REDUCING for line in lines(REDUCTIONS)),
    *(line.replace("(x", "(p") for line in lines(REDUCTIONS.format(*["ReduceLogSum"] * REDUCTIONS.count("{}")))),
    "y = ReduceProd<axes = [-1, 1], keepdims = 0>(p)",
    "18: y = ReduceProd(x, axes_23)",
    "z = Where(mostly, x, zero); y = ReduceProd<axes = [1]>(z)",
]


BYTES = {"bytes_4": (5, 3, 8), "bytes_2": (5, 3, 4), "points_4": (10,), "points_2": (5,)}
BYTES |= {"table_4": (7, 16), "table_points": (7, 1)}


def constants() -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)

    def real(*shape: int) -> np.ndarray:
        return random.uniform(-1, 1, shape).astype(np.float32)

    kernels = {"k2": (5, 4, 2, 2), "k3": (5, 4, 3, 3), "k23": (5, 4, 2, 3), "kg": (6, 2, 3, 3), "kd": (8, 1, 3, 3)}
    kernels |= {"k1d": (5, 4, 3), "k3d": (5, 4, 2, 3, 3), "kt": (4, 5, 3, 3), "transposed": (4, 5, 3, 3)}
    kernels |= {"transposed_4": (4, 2, 3, 3), "t2": (4, 5, 2, 2), "t1d": (4, 5, 3), "t3d": (4, 5, 2, 3, 3)}
    factors = {"dense": (144, 5), "dense_t": (5, 144), "m67": (6, 7), "m467": (4, 6, 7), "m3467": (3, 4, 6, 7)}
    addends = {"b5": (5,), "b6": (6,), "c5": (5,), "c15": (1, 5), "c31": (3, 1), "c35": (3, 5), "updates": (2, 6, 6)}
    addends |= {"h4": (4,), "h6": (6,), "h66": (6, 6), "h466": (4, 6, 6), "mean": (4,), "v6": (6,), "m456": (4, 5, 6)}
    scales = {"s4": (4,), "s6": (6,), "s66": (6, 6), "s466": (4, 6, 6), "s411": (4, 1, 1), "s61": (6, 1), "var": (4,)}
    addends |= {
        "b10": (10,),
        "cosine": (6, 3),
        "sine": (6, 3),
        "cosine_3": (3, 6, 3),
        "sine_3": (3, 6, 3),
        "cosine_2": (6, 2),
        "sine_2": (6, 2),
    }
    addends |= {
        "two_rows": (2, 6),
        "h2": (2,),
        "h36": (36,),
        "b36": (36,),
        "b108": (108,),
        "grid": (3, 4, 5, 2),
        "bias_4": (1, 2, 4, 4),
    }
    addends |= {"m66": (6, 6), "h0": (1, 3, 5), "c0": (1, 3, 5), "h02": (2, 3, 5), "c02": (2, 3, 5)}
    for cell, gates in (("lstm", 4), ("gru", 3), ("rnn", 1)):
        for many, count in (("", 1), ("2", 2)):
            addends |= {f"r_{cell}{many}": (count, 5 * gates, 5), f"b_{cell}{many}": (count, 10 * gates)}
            factors[f"w_{cell}{many}"] = (count, 5 * gates, 36)
    factors["joint"] = (36, 36)
    addends |= {"cosine_18": (4, 18), "sine_18": (4, 18)}
    scales |= {"s2": (2,), "s36": (36,)}
    scales["s3466"] = (3, 4, 6, 6)
    addends |= {"to_64": (36, 64), "cos_4": (8, 8), "sin_4": (8, 8)}
    integers = {"one": [1], "two_i": [2], "three_i": [3], "minus_1": [-1], "minus_2": [-2], "many": [99], "few": [-99]}
    integers |= {"minus_1_scalar": -1, "minus_2_scalar": -2, "axes_23": [2, 3], "empty": [], "picked": [0, 2, -1]}
    integers |= {"picked_2d": [[0, -1], [2, 2]], "positions": [[0, -1], [1, 2]], "positions_1": [[[1]], [[-1]], [[0]]]}
    integers |= {"zero_one": [0, 1], "many_three": [99, 3], "one_three": [1, 3], "pads": [0, 0, 1, 2, 0, 0, 1, 0]}
    integers |= {"negative_pads": [0, 0, -1, 0, 0, 0, 1, -1], "four_pads": [1, 0, 2, 1], "expanded": [3, 2, 4, 6, 6]}
    integers |= {"whole": [3, 4, 6, 6], "repeats": [1, 2, 1, 3], "joined": [0, 2, -1], "three_rows": [3, -1]}
    integers |= {
        "two_scalar": 2,
        "one_scalar": 1,
        "lengths": [2, 4, 3],
        "sizes": [3, 4, 9, 4],
        "zero_i": [0],
        "rows_first": [3, 1, 1, 1],
    }
    integers |= {"small": [3, 4, 3, 4], "places": [[0, 2, 4, 1, 5, 3]] * 3}
    integers |= {"line": [0, 4, 36], "solid": [0, 4, 3, 3, 4]}
    integers["rows_36"] = [0, 6, 2, 1] * 9
    elements = random.integers(-4, 4, (3, 4, 6, 6))
    permuted = random.permuted(np.tile(np.arange(4)[None, :, None, None], (3, 1, 6, 6)), axis=1)
    numbers = {"zero": 0, "one_f": 1, "five": 5, "scales_odd": [1, 1, 1.5, 0.7], "two_scales": [1.5, 2]}
    numbers |= {"roi": [0, 0, -0.2, 0.1, 1, 1, 1.1, 0.8], "half": 0.5, "three": 3, "low": -0.3, "high": 0.3}
    return {
        "w": np.zeros((4, 6, 6), np.float32),
        **{name: real(*shape) for name, shape in (kernels | factors | addends).items()},
        **{name: real(*shape) + 2 for name, shape in scales.items()},
        **{name: np.array(value, np.int64) for name, value in integers.items()},
        **{name: np.array(value, np.float32) for name, value in numbers.items()},
        "seen_3": np.full((3, 1), 3, np.int32),
        "total_4": np.array([4], np.int32),
        "condition": random.random((3, 4, 6, 6)) > 0.5,
        "condition_3": np.array([True, False, True]),
        "seen": np.tril(np.ones((6, 6), bool), 2),
        "s1": np.array([[1.1, 0.93]], np.float32),
        "mask_2": np.array([[1, 1, 0, 1], [1, 1, 1, 0], [1, 1, 1, 1]], np.int32),
        "words": np.array([[0, 2, 1], [5, 4, 4], [1, 1, 3]], np.int32),
        "segments": np.array([[0, 0, 1], [0, 1, 1], [1, 1, 1]], np.int32),
        "swapped": np.array([[2, 1, 0]] * 3, np.int32),
        "lengths_4": np.array([4, 4, 4], np.int32),
        "mostly": random.random((3, 4, 6, 6)) > 0.3,
        "condition_6": random.random(6) > 0.5,
        "elements": elements,
        "permuted": permuted,
        "scales": np.array([1, 1, 2, 2], np.float32),
        "true": np.array(True),
        "block_scales": random.uniform(-0.2, 0.2, (5, 3)).astype(np.float32),
        "table_scales": random.uniform(-0.2, 0.2, (7, 2)).astype(np.float32),
        **{name: random.integers(0, 256, shape, np.uint8) for name, shape in BYTES.items()},
    }
