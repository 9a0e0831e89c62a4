"""What gives a parameter its values: one type for each way, so that whoever handles one says which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelfactory.init.schemes.table import Scheme


@dataclass(frozen=True)
class Default:
    """What the module's author wrote, done again by a keyed generator."""

    name: str = "default"


@dataclass(frozen=True)
class Auto:
    """A scheme that the model is still to be asked about."""

    name: str = "auto"


@dataclass(frozen=True)
class Keep:
    """Nothing: no rule picks this block of a packed parameter, whose numbers stay as they are."""

    name: str = "as it was"


@dataclass(frozen=True)
class FromFile:
    """A file of weights; `name` is the file and the tensor in it."""

    name: str


@dataclass(frozen=True)
class Copy:
    """The values of another parameter; `of` is that, or the module that it is in."""

    of: str
    name: str = "copy"


@dataclass(frozen=True)
class FromScheme:
    """A scheme of the catalogue.

    Attributes:
        args: keyword arguments, without the gain.
        gain: a number, "auto", or None when the scheme has none or it is left at the scheme's own.
    """

    name: str
    scheme: Scheme
    args: Mapping[str, Any] = field(default_factory=dict)
    gain: float | str | None = None


@dataclass(frozen=True)
class Custom:
    """A function of the user's own, by its dotted name, called as function(tensor, generator=..., **args) when it takes a generator."""

    name: str
    function: Callable[..., Any]
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class InBlocks:
    """One of these for each block of a packed parameter; `name` names them all."""

    name: str


SchemeCall = Default | Auto | Keep | FromFile | Copy | FromScheme | Custom | InBlocks


def given_arguments(call: SchemeCall) -> Mapping[str, Any]:
    """The arguments that a config gives a scheme, without the gain.

    Example:
        >>> given_arguments(Copy("student")), given_arguments(Default())
        ({'of': 'student'}, {})
    """
    match call:
        case FromScheme(args=args) | Custom(args=args):
            return args
        case Copy(of=of):
            return {"of": of}
        case _:
            return {}


def scheme_of(call: SchemeCall) -> Scheme | None:
    """The row of the catalogue that fills a parameter; None where none does."""
    return call.scheme if isinstance(call, FromScheme) else None
