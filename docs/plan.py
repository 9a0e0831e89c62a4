"""The outputs in docs/plan.md, as the commands above them print them: python docs/plan.py writes them anew."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from pathlib import Path

PAGE = Path(__file__).with_name("plan.md")
_BLOCK = re.compile(r"```console\n\$ (.*?)\n.*?```", re.DOTALL)


def page(text: str) -> str:
    """The page with every output as it is."""
    return _BLOCK.sub(lambda block: f"```console\n$ {block[1]}\n{output(block[1])}```", text)


def output(command: str) -> str:
    """What a command of ours prints on a page of 120 columns."""
    from modelfactory.cli.main import main

    printed, kept = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "120"
    try:
        with contextlib.redirect_stdout(printed):
            main(shlex.split(command)[1:])
    finally:
        if kept is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = kept
    return printed.getvalue()


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
