"""Shell completion of the console script's own commands."""

from __future__ import annotations

import os
from collections.abc import Iterable


def complete(commands: Iterable[str], views: Iterable[str]) -> bool:
    """Prints what completes `modelfactory COMMAND ...`; False where Hydra is to, of what comes after the command.

    Args:
        commands: all of them.
        views: those that take no overrides.
    """
    line = os.environ.get("COMP_LINE", "")
    words = line.split(" ")
    if len(words) == 2:
        print(" ".join(command for command in commands if command.startswith(words[1])))
        return True
    if words[1] in views and words[1] != "coordcheck":
        if words[1] == "list" and len(words) == 3:
            from modelfactory.cli.listing import group_names

            print(" ".join(name for name in group_names() if name.startswith(words[2])))
        return True
    if len(words) > 2 and words[1] in ("plan", "explain", "audit", "coordcheck"):
        from modelfactory.cli.coordcheck import FLAGS as COORDCHECK_FLAGS
        from modelfactory.cli.plan_and_explain import AUDIT_FLAGS, FLAGS

        if words[-1].startswith("-"):
            flags = {"audit": AUDIT_FLAGS, "coordcheck": COORDCHECK_FLAGS}.get(words[1], FLAGS)
            print(" ".join(flag for flag in flags if flag.startswith(words[-1])))
            return True
        if words[1] == "explain" and len(words) == 3:  # the name of a parameter, which only the model tells
            return True
        words = [word for word in words if word not in (*FLAGS, *AUDIT_FLAGS, *COORDCHECK_FLAGS)]
    if len(words) > 2:
        os.environ["COMP_LINE"] = " ".join([words[0], *words[3 if words[1] == "explain" else 2 :]])
    return False
