"""Find what the code of a model means to do to its initial values: a scale by depth, behind a test of names or of types."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from types import FunctionType
from typing import Any, NamedTuple

from torch import nn

_WRITES_VALUES = re.compile(r"init|reset")
_OF_DEPTH = re.compile(r"layer|depth|block", re.IGNORECASE)
_ROOT = re.compile(r"sqrt|\*\*\s*\(?-?\s*0?\.5")
_TYPES = ("isinstance", "hasattr", "getattr")


class Intended(NamedTuple):
    """A scale by depth in the code of a model.

    Attributes:
        where: the method, `Class.method`.
        test: the condition on which it scales, as the code has it.
    """

    where: str
    test: str


def find_intended_scale(model: nn.Module) -> Intended | None:
    """The first scale by depth that a method which writes initial values has behind a test of names, of types or of a mark.

    What hangs on a setting counts where the module has the setting, and it is on; what hangs on anything else does not.

    Example:
        >>> find_intended_scale(nn.Linear(2, 2)) is None
        True
    """
    seen: set[type] = set()
    for module in model.modules():
        for cls in type(module).__mro__:
            if cls in seen or cls.__module__.startswith("torch."):
                continue
            seen.add(cls)
            for name, method in vars(cls).items():
                if _WRITES_VALUES.search(name) and isinstance(method, FunctionType):
                    test = next(_tests(method, module), None)
                    if test is not None:
                        return Intended(f"{cls.__name__}.{name}", test)
    return None


def _tests(method: FunctionType, module: nn.Module) -> Iterator[str]:
    try:
        source = inspect.getsource(method)
    except (OSError, TypeError):  # written in an interpreter, or by exec
        return
    if not _OF_DEPTH.search(source) or not _ROOT.search(source):
        return
    try:
        tree = ast.parse(textwrap.dedent(source))
    except SyntaxError:  # a line of a string that stands further left than the code
        return
    yield from _in(tree.body, [], module)


def _in(body: Sequence[ast.stmt], conditions: list[ast.expr], module: nn.Module) -> Iterator[str]:
    """The innermost tests of names under which a body scales by depth, where all others that it hangs on are fulfilled."""
    for statement in body:
        if isinstance(statement, ast.If):
            yield from _in(statement.body, [*conditions, statement.test], module)
            yield from _in(statement.orelse, conditions, module)
            continue
        inner = [part for field in ("body", "orelse", "finalbody") for part in getattr(statement, field, [])]
        if inner:
            yield from _in(inner, conditions, module)
        elif conditions and _scales(statement):
            known = [_kind(condition, module) for condition in conditions]
            if "test" in known and None not in known:
                yield ast.unparse(conditions[len(known) - 1 - known[::-1].index("test")])


def _scales(statement: ast.stmt) -> bool:
    text = ast.unparse(statement)
    return bool(_OF_DEPTH.search(text) and _ROOT.search(text))


def _kind(condition: ast.expr, module: nn.Module) -> str | None:
    """Whether a condition is a test of names, types or marks ("test"), a setting that is on ("on"), or cannot be known (None)."""
    parts = list(ast.walk(condition))
    named = any(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in parts)
    typed = any(isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id in _TYPES for part in parts)
    if (named or typed) and not any(isinstance(part, ast.Attribute) and ast.unparse(part).startswith("self.") for part in parts):
        return "test"
    value: Any = module
    path = ast.unparse(condition).split(".")
    if path[0] != "self" or not all(part.isidentifier() for part in path):
        return None
    for part in path[1:]:
        value = getattr(value, part, None)
    return "on" if value is True else None
