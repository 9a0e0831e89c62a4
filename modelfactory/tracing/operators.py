"""The operators of torch by what they do to a tensor: one list of names for every walk over a graph."""

from __future__ import annotations

from functools import cache


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


SILENT = _names(
    "__set__ size dim ndimension numel stride is_floating_point is_complex requires_grad_ storage_offset is_contiguous data_ptr "
    "item tolist _assert isnan isinf isfinite all any nelement __len__ __bool__ __repr__ __format__ __int__ __float__ __index__ "
    "__contains__ get_device __hash__ element_size is_pinned is_shared register_hook backward equal allclose is_nonzero "
    "is_same_size has_names __deepcopy__ zeros_like ones_like empty_like full_like rand_like randn_like randint_like new_zeros "
    "new_empty new_ones new_full new_tensor is_inference is_conj is_neg result_type can_cast promote_types "
    "broadcast_tensors_shape is_nested cpu_info untyped_storage storage"
)
"""Calls that give no tensor of the signal."""

VIEW_ATTRIBUTES = _names("T mT H mH data real imag")
"""Attributes of a tensor that are a view of it."""

RESHAPES = _names("view reshape flatten unflatten squeeze unsqueeze view_as reshape_as ravel _unsafe_view")
PERMUTES = _names("transpose permute t T mT H mH movedim moveaxis swapaxes swapdims adjoint")
SLICES = _names(
    "getitem narrow select chunk split split_with_sizes tensor_split unbind index_select gather take_along_dim unsafe_chunk "
    "unsafe_split slice"
)
COPIES = _names(
    "contiguous clone detach to type float half bfloat16 double cpu cuda alias data real type_as requires_grad dropout dropout1d "
    "dropout2d dropout3d feature_dropout alpha_dropout feature_alpha_dropout identity view_as_real view_as_complex positive"
)
SPREADS = _names("expand expand_as repeat repeat_interleave tile broadcast_to")
MOVES = _names(
    "roll flip pad constant_pad_nd interpolate upsample pixel_shuffle pixel_unshuffle unfold channel_shuffle diagonal grid_sample "
    "im2col fold tril triu"
)
JOINS = _names("cat concat concatenate stack hstack vstack dstack")
KEEPS = RESHAPES | PERMUTES | COPIES | SPREADS
"""Calls that may return the very tensor that they were given."""

ADDS = _names("add sub rsub subtract iadd isub")
PRODUCTS = _names("mul multiply div divide true_divide rdiv imul idiv")
MASKS = _names("masked_fill where masked_scatter clamp_mask")
MEANS = _names("mean sum nanmean cumsum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d")
MAXIMA = _names(
    "max amax min amin max_pool1d max_pool2d max_pool3d _max_pool2d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
    "boolean_dispatch fn topk sort argsort argmax argmin logsumexp median lp_pool2d max_pool2d_with_indices"
)
SPREAD_OF = _names("var std var_mean std_mean norm vector_norm linalg_vector_norm linalg_norm")
STATISTICS = MEANS | SPREAD_OF | _names("max amax min amin")
SMOOTH = _names("pow square sqrt rsqrt reciprocal abs exp log neg float_power log1p expm1 cos sin")
"""Elementwise maps that make no activation: by the pieces of a norm, or of a constant."""
NORMS = _names("batch_norm layer_norm group_norm instance_norm rms_norm local_response_norm normalize native_layer_norm")
SOFTMAXES = _names("softmax softmin log_softmax gumbel_softmax _softmax sparsemax")
PRODUCTS_OF_MATRICES = _names(
    "linear matmul mm bmm addmm baddbmm addbmm mv addmv rmatmul dot vdot inner einsum tensordot bilinear chain_matmul multi_dot "
    "grouped_mm conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d conv_transpose3d"
)
CONVOLUTIONS = _names("conv1d conv2d conv3d convolution")
TRANSPOSED = _names("conv_transpose1d conv_transpose2d conv_transpose3d")
LOOKUPS = _names("embedding embedding_bag")
RECURRENT = _names("lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell")
ATTENTION = _names("scaled_dot_product_attention")
WRITES = _names(
    "setitem index_add index_copy scatter scatter_add index_put copy written slice_scatter index_reduce scatter_reduce masked_scatter"
)
ACTIVATIONS = _names(
    "celu elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish prelu relu relu6 rrelu selu sigmoid silu "
    "softplus softshrink softsign tanh tanhshrink threshold erf swish expit special_expit square_relu"
)
GATED = _names("glu")
SHAPED_LIKE = _names("reshape_as view_as expand_as type_as")
"""Calls whose second tensor gives a shape or a type alone."""


@cache
def operator_name(name: str) -> str:
    """The operator that a function's name stands for: `add_`, `__iadd__` and `__radd__` are all `add`.

    Example:
        >>> [operator_name(name) for name in ("add_", "__radd__", "__getitem__", "conv2d", "__rmatmul__", "__rsub__")]
        ['add', 'add', 'getitem', 'conv2d', 'rmatmul', 'rsub']
    """
    if "grouped_mm" in name:
        return "grouped_mm"
    if name.startswith("__") and name.endswith("__"):
        inner = name.strip("_")
        return _DUNDERS.get(inner, inner)
    return name.rstrip("_") or name


_DUNDERS = {
    **dict.fromkeys(("iadd", "radd"), "add"),
    "isub": "sub",
    **dict.fromkeys(("imul", "rmul"), "mul"),
    **dict.fromkeys(("itruediv", "truediv", "idiv"), "div"),
    "rtruediv": "rdiv",
    "rdiv": "rdiv",
    "iter": "unbind",
    "ipow": "pow",
    "imatmul": "matmul",
}
