"""Products of matrices as one thing: which axes of each operand are summed over, shared, or come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelfactory.tracing.graph import Node, Value
from modelfactory.tracing.operators import CONVOLUTIONS, PRODUCTS_OF_MATRICES, TRANSPOSED

Letters = tuple[str, ...]


@dataclass(frozen=True)
class Operand:
    """One factor, with a letter for each of its axes."""

    value: Value
    letters: Letters


@dataclass(frozen=True)
class Contraction:
    """A sum of products. Of an operand, an axis whose letter is not in `output` is summed over; one whose letter another
    operand has too is shared, a copy for each of its positions; any other comes out.

    Attributes:
        operands: the factors, the signal before the weight where the operator has such an order.
        output: a letter for each axis of the result.
        bias: what is added, None where nothing is.
        groups: of a convolution.
        picked: letters of axes of which the operator picks a position for each row: expert stacks.
    """

    node: Node
    operands: tuple[Operand, ...]
    output: Letters
    bias: Value | None = None
    groups: int = 1
    picked: Letters = ()

    def summed(self, operand: Operand) -> list[int]:
        """The axes of an operand that are summed over."""
        kept = (*self.output, *self.picked)
        return [axis for axis, letter in enumerate(operand.letters) if letter not in kept and operand.value.shape[axis] > 1]

    def shared(self, operand: Operand) -> list[int]:
        """The axes of an operand of which each position has its own matrix."""
        others = [letter for other in self.operands if other is not operand for letter in other.letters]
        pairs = enumerate(operand.letters)
        return [axis for axis, letter in pairs if letter in self.picked or (letter in self.output and letter in others)]

    def coming_out(self, operand: Operand) -> list[int]:
        """The axes of an operand that are axes of the result and of no other operand."""
        shared = self.shared(operand)
        return [axis for axis, letter in enumerate(operand.letters) if letter in self.output and axis not in shared]


def contraction(node: Node) -> Contraction | None:
    """The contraction that a call is, None of any other call, and of one whose form is not known.

    Example:
        >>> import torch
        >>> from modelfactory.tracing.record import record
        >>> found = contraction(record(torch.nn.Conv2d(4, 6, 3, groups=2), torch.zeros(1, 4, 8, 8)).nodes[0])
        >>> weight = found.operands[1]
        >>> weight.letters, found.summed(weight), found.coming_out(weight)
        (('o', 'i', 'k0', 'k1'), [1, 2, 3], [0])
    """
    op = node.op
    if op not in PRODUCTS_OF_MATRICES:
        return None
    if op in CONVOLUTIONS or op in TRANSPOSED:
        return _convolution(node, op in TRANSPOSED)
    rule = _RULES.get(op)
    return None if rule is None else rule(node)


def _values(node: Node, names: Sequence[str]) -> list[Any]:
    return [node.argument(place, name) for place, name in enumerate(names)]


def _batch(count: int, axes: int) -> Letters:
    """Letters of leading axes, counted from the last so that they meet as they broadcast."""
    return tuple(f"b{index}" for index in range(count + axes - 1, axes - 1, -1))


def _linear(node: Node) -> Contraction | None:
    x, weight, bias = _values(node, ("input", "weight", "bias"))
    lead = _batch(len(x.shape) - 1, 0)
    out = ("o",) if len(weight.shape) == 2 else ()
    return Contraction(node, (Operand(x, (*lead, "i")), Operand(weight, (*out, "i"))), (*lead, *out), bias)


def _product(node: Node, one: Value, other: Value, bias: Value | None = None) -> Contraction:
    left = ("m",) if len(one.shape) > 1 else ()
    right = ("o",) if len(other.shape) > 1 else ()
    lead_one, lead_other = _batch(max(len(one.shape) - 2, 0), 0), _batch(max(len(other.shape) - 2, 0), 0)
    lead = max(lead_one, lead_other, key=len)
    operands = (Operand(one, (*lead_one, *left, "i")), Operand(other, (*lead_other, "i", *right)))
    return Contraction(node, _broadcast(operands), (*lead, *left, *right), bias)


def _broadcast(operands: tuple[Operand, ...]) -> tuple[Operand, ...]:
    """Axes of size 1 that are broadcast are no axes: they have letters of their own."""
    sizes: dict[str, int] = {}
    for operand in operands:
        for letter, size in zip(operand.letters, operand.value.shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    found = []
    for operand in operands:
        pairs = zip(operand.letters, operand.value.shape, strict=True)
        found.append(Operand(operand.value, tuple(f"{letter}=1" if size == 1 != sizes[letter] else letter for letter, size in pairs)))
    return tuple(found)


def _matmul(node: Node) -> Contraction:
    one, other = _values(node, ("input", "other" if node.op != "bmm" else "mat2"))
    other = other if other is not None else node.argument(1, "mat2")
    return _product(node, other, one) if node.op == "rmatmul" else _product(node, one, other)


def _added(node: Node) -> Contraction:
    bias, one, other = node.args[:3] if len(node.args) >= 3 else node.inputs[:3]
    return _product(node, one, other, bias)


def _grouped(node: Node) -> Contraction:
    x, weight = node.inputs[:2]
    return Contraction(node, (Operand(x, ("s", "i")), Operand(weight, ("e", "i", "o"))), ("s", "o"), picked=("e",))


def _einsum(node: Node) -> Contraction | None:
    equation = node.argument(0, "equation")
    if not isinstance(equation, str):
        return None
    given = equation.replace(" ", "")
    left, arrow, right = given.partition("->")
    terms = left.split(",")
    if len(terms) != len(node.inputs):
        return None
    most = max(len(value.shape) - len(term.replace("...", "")) for term, value in zip(terms, node.inputs, strict=True))
    operands = tuple(Operand(value, _spelled(term, len(value.shape))) for term, value in zip(terms, node.inputs, strict=True))
    if not arrow:
        once = sorted(letter for letter in set(left) - set(",.") if left.count(letter) == 1)
        right = "..." * ("..." in left) + "".join(once)
    return Contraction(node, _broadcast(operands), _spelled(right, len(right.replace("...", "")) + (most if "..." in right else 0)))


def _spelled(term: str, ndim: int) -> Letters:
    before, dots, after = term.partition("...")
    count = ndim - len(before) - len(after) if dots else 0
    return (*before, *(f"b{index}" for index in range(count - 1, -1, -1)), *after)


def _bilinear(node: Node) -> Contraction:
    one, other, weight, bias = _values(node, ("input1", "input2", "weight", "bias"))
    lead = _batch(len(one.shape) - 1, 0)
    operands = (Operand(one, (*lead, "i")), Operand(other, (*lead, "j")), Operand(weight, ("o", "i", "j")))
    return Contraction(node, operands, (*lead, "o"), bias)


def _tensordot(node: Node) -> Contraction | None:
    one, other = node.inputs[:2]
    dims = node.argument(2, "dims", 2)
    if isinstance(dims, int):
        pairs = [(len(one.shape) - dims + index, index) for index in range(dims)]
    elif isinstance(dims, (tuple, list)) and all(isinstance(part, (tuple, list, int)) for part in dims):
        parts = [[part] if isinstance(part, int) else part for part in dims]
        pairs = [(a % len(one.shape), b % len(other.shape)) for a, b in zip(*parts, strict=True)]
    else:
        return None
    left = [f"l{axis}" for axis in range(len(one.shape))]
    right = [f"r{axis}" for axis in range(len(other.shape))]
    for index, (a, b) in enumerate(pairs):
        left[a] = right[b] = f"i{index}"
    output = tuple(letter for letter in (*left, *right) if not letter.startswith("i"))
    return Contraction(node, (Operand(one, tuple(left)), Operand(other, tuple(right))), output)


def _convolution(node: Node, transposed: bool) -> Contraction | None:
    given = convolution_arguments(node)
    x, weight = given["input"], given["weight"]
    if not isinstance(x, Value) or not isinstance(weight, Value):
        return None
    axes = len(weight.shape) - 2
    lead = ("n",) if len(x.shape) == axes + 2 else ()
    channel = "i" if given["groups"] == 1 else "c"
    kernel, spatial, out = (tuple(f"{letter}{axis}" for axis in range(axes)) for letter in "kst")
    letters = ("i", "o", *kernel) if transposed else ("o", "i", *kernel)
    operands = (Operand(x, (*lead, channel, *spatial)), Operand(weight, letters))
    return Contraction(node, operands, (*lead, "o", *out), given["bias"], given["groups"])


_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_DEFAULTS = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1, "output_padding": 0}


def convolution_arguments(node: Node) -> dict[str, Any]:
    """The arguments of a convolution by name, its defaults too."""
    names = _TRANSPOSED if node.op in TRANSPOSED else _CONVOLUTION
    given: dict[str, Any] = {**_DEFAULTS, **dict(zip(names, node.args, strict=False)), **node.kwargs}
    return given


_RULES: dict[str, Any] = {
    "linear": _linear,
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot", "rmatmul"), _matmul),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _added),
    "grouped_mm": _grouped,
    "einsum": _einsum,
    "bilinear": _bilinear,
    "tensordot": _tensordot,
}
