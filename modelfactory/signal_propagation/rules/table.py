"""Which rule a call goes by."""

from __future__ import annotations

from modelfactory.numerics.gaussian_moments import NotPredicted
from modelfactory.signal_propagation import hiding, joining, multiplying
from modelfactory.signal_propagation.graph import NodeRef, SignalNode
from modelfactory.signal_propagation.rules import activations, arithmetic, attention, linear, norms, pooling, reshape
from modelfactory.signal_propagation.rules.base import Context, PropagationRule

_ACTIVATION = PropagationRule(activations.bend_forward, activations.bend_backward)
_SAME = PropagationRule(reshape.same_forward, reshape.same_backward)
_PERMUTE = PropagationRule(reshape.permute_forward, reshape.permute_backward)
_PART = PropagationRule(reshape.part_forward, reshape.same_backward)
_ADD = PropagationRule(arithmetic.add_forward, arithmetic.add_backward)
_CONV = PropagationRule(linear.conv_forward, linear.conv_backward)
_TRANSPOSED = PropagationRule(linear.transposed_forward, linear.conv_backward)
_NORM = PropagationRule(norms.norm_forward, norms.norm_backward)
_AVERAGE = PropagationRule(pooling.average_forward, pooling.average_backward)
_MAX = PropagationRule(pooling.max_forward, pooling.max_backward)
_MEAN = PropagationRule(pooling.mean_forward, pooling.mean_backward)
_PRODUCT = PropagationRule(multiplying.product_forward, multiplying.product_backward)
_DROP = PropagationRule(reshape.drop_forward, reshape.drop_backward)

SHAPING = frozenset(
    "view reshape flatten unflatten contiguous clone detach data to type type_as float half bfloat16 double cpu cuda long int squeeze "
    "unsqueeze expand expand_as repeat repeat_interleave roll ravel view_as reshape_as identity interpolate upsample alpha_dropout "
    "feature_alpha_dropout pixel_unshuffle channel_shuffle".split()
)
PARTS = frozenset("chunk split getitem select narrow unbind tensor_split index_select".split())
PERMUTES = frozenset("permute transpose t T mT swapaxes swapdims movedim moveaxis".split())
ARRANGING = SHAPING | PARTS | PERMUTES | {"add", "sub", "rsub", "cat", "concat", "concatenate", "stack"}
"""Calls that lead a gradient back the same way whatever they make of the signal."""

RULES: dict[str, PropagationRule] = {
    "activation": _ACTIVATION,
    "linear": PropagationRule(linear.linear_forward, linear.linear_backward),
    "embedding": PropagationRule(linear.embedding_forward, reshape.stop_backward),
    **{f"conv{dims}d": _CONV for dims in (1, 2, 3)},
    **{f"conv_transpose{dims}d": _TRANSPOSED for dims in (1, 2, 3)},
    **dict.fromkeys(("batch_norm", "layer_norm", "rms_norm", "group_norm", "instance_norm"), _NORM),
    **dict.fromkeys(pooling.pool_names("avg"), _AVERAGE),
    **dict.fromkeys(pooling.pool_names("max"), _MAX),
    **dict.fromkeys(("mean", "sum"), _MEAN),
    **dict.fromkeys(("var", "std"), PropagationRule(pooling.variance_forward, pooling.variance_backward)),
    **dict.fromkeys(("amax",), _MAX),
    **dict.fromkeys(("add", "sub", "rsub"), _ADD),
    **dict.fromkeys(("mul", "multiply"), PropagationRule(arithmetic.mul_forward, arithmetic.mul_backward)),
    **dict.fromkeys(("div", "truediv", "true_divide", "divide"), PropagationRule(arithmetic.div_forward, arithmetic.div_backward)),
    **dict.fromkeys(("cat", "concat", "concatenate"), PropagationRule(joining.cat_forward, joining.cat_backward)),
    "multi_head_attention_forward": PropagationRule(attention.module_forward, attention.module_backward),
    "scaled_dot_product_attention": PropagationRule(attention.attention_forward, attention.attention_backward),
    **dict.fromkeys(("matmul", "bmm", "mm", "addmm", "baddbmm"), _PRODUCT),
    "softmax": PropagationRule(attention.softmax_forward, attention.softmax_backward),
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout"), _DROP),
    **dict.fromkeys(("masked_fill", "where"), PropagationRule(hiding.hide_forward, hiding.hide_backward)),
    "stack": PropagationRule(joining.stack_forward, joining.stack_backward),
    **dict.fromkeys(SHAPING, _SAME),
    **dict.fromkeys(("detach", "data"), PropagationRule(reshape.same_forward, reshape.stop_backward)),
    **dict.fromkeys(PERMUTES, _PERMUTE),
    **dict.fromkeys(PARTS, _PART),
    "pad": PropagationRule(reshape.pad_forward, reshape.pad_backward),
    "pixel_shuffle": PropagationRule(reshape.shuffle_forward, reshape.same_backward),
}


def rule_of(context: Context, node: SignalNode) -> tuple[PropagationRule, SignalNode]:
    """The rule of a call, and the call as the rule takes it: what calls before it and it are together, if that is one function.

    Raises:
        NotPredicted: there is none.
    """
    fused = context.roots.fused(node)
    if fused is not None:
        return _ACTIVATION, fused
    if context.roots.is_product_with_itself(node):
        raise NotPredicted(f"{node.called} of a signal with itself")
    op = node.op.removeprefix("_")  # torch's own private spellings, such as _max_pool2d
    rule = RULES.get(op)
    if rule is not None and (node.op == "activation" or any(isinstance(item, NodeRef) for item in _signals(node))):
        return rule, node
    elementwise = activations.as_activation(node)
    if elementwise is not None:
        return _ACTIVATION, activations.bent(node, elementwise)
    raise NotPredicted(f"{node.called} is not among what is predicted")


def _signals(node: SignalNode) -> list[NodeRef]:
    return [NodeRef(index) for index in node.inputs]
