"""What a warning says, with the override that would fix what it is about."""

from __future__ import annotations


class Advice(str):
    """What a warning says, and the override of the command line that would fix it.

    Attributes:
        mend: an override to paste, such as "init=kaiming_normal"; None where there is no single one.
        message: the warning without it.

    Example:
        >>> advice = Advice("the signal vanishes", mend="init=kaiming_normal")
        >>> print(advice)
        the signal vanishes; to fix it: init=kaiming_normal
        >>> advice.mend
        'init=kaiming_normal'
    """

    message: str
    mend: str | None

    def __new__(cls, message: str, mend: str | None = None) -> Advice:
        advice = super().__new__(cls, message if mend is None else f"{message}; to fix it: {mend}")
        advice.message, advice.mend = message, mend
        return advice
