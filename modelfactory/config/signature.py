"""What a class or function of other code takes: the names of its arguments, which are required, and their types."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any


@cache
def parameters_of(target: Callable[..., Any]) -> tuple[dict[str, tuple[bool, Any]], bool]:
    """For each named parameter whether it is required and its checkable annotation (or None); and if it takes any.

    Example:
        >>> def double(x: int, twice: bool = True): ...
        >>> parameters_of(double)
        ({'x': (True, <class 'int'>), 'twice': (False, <class 'bool'>)}, False)
    """
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return {}, True
    try:
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError, AttributeError):
        hints = {}
    named, takes_any = {}, False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_any = True
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            hint = hints.get(parameter.name)
            named[parameter.name] = parameter.default is parameter.empty, hint if _is_plain(hint) else None
    for base in _passed_on_to(target, hints) if takes_any else ():
        if "__init__" in vars(base) and base is not object and not base.__module__.endswith("nn.modules.module"):
            above, takes_any = parameters_of(base)
            needed = _NEEDED.get(base.__name__, ()) if base.__module__.startswith("torch.nn") else ()
            named = {**{name: (name in needed, hint) for name, (_, hint) in above.items()}, **named}
            if needed:
                named.pop("mode", None)  # each subclass has its own
            break
    if inspect.isclass(target) and not takes_any and _takes_more(target):
        settable = inspect.getmembers(target, lambda value: isinstance(value, property) and value.fset is not None)
        named = {**{name: (False, None) for name, _ in settable}, **named}
    return named, takes_any


def _takes_more(target: type) -> bool:
    """Whether what stands around a constructor takes any keyword, as those of the settings of `transformers` do."""
    around = inspect.signature(target.__init__, follow_wrapped=False).parameters.values()
    return hasattr(target.__init__, "__wrapped__") and any(parameter.kind is parameter.VAR_KEYWORD for parameter in around)


_NEEDED = {"RNNBase": ("input_size", "hidden_size")}  # by the subclasses, whose signatures do not say


def _passed_on_to(target: Callable[..., Any], hints: Mapping[str, Any]) -> tuple[type, ...]:
    """The classes one of which gets the `**kwargs` of a class or of one of torchvision's builders."""
    if inspect.isclass(target):
        return target.__mro__[1:]
    made = hints.get("return")
    return made.__mro__ if inspect.isclass(made) and f"{target.__module__}.".startswith("torchvision.models.") else ()


def _is_plain(hint: Any) -> bool:
    """Whether `check_value` can judge this annotation."""
    if hint in (int, float, bool, str, type(None)) or typing.get_origin(hint) is typing.Literal:
        return True
    if typing.get_origin(hint) in (typing.Union, types.UnionType, tuple, list):
        return all(arg is Ellipsis or _is_plain(arg) for arg in typing.get_args(hint))
    return False
