"""The commands that look at a config and train nothing: `modelfactory plan`, `modelfactory explain` and `modelfactory audit`.

Nothing here imports torch before a model is wanted, so that help and shell completion answer at once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from modelfactory.config.errors import ConfigError, Problem

PAGE = 120  # columns, where the output is no terminal
FLAGS = ("--all", "--against", "--config-dir", "--config-name", "--help", "--json", "--short")
AUDIT_FLAGS = ("--checkpoint", "--config-dir", "--config-name", "--help", "--json", "--level")

_PLAN = """\
Shows what a config would build, without building it: no weight is allocated, whatever the size.

One row a layer: what leaves it, parameters, memory, FLOPs, and the rule, scheme, gain, fans and standard deviation of
its weights; then sums, what each rule sets, and warnings with the override that would mend each."""
_PLAN_EXAMPLES = """\
examples
  modelfactory plan model=cnn init=xavier_normal
  modelfactory plan model=deep_mlp model.depth=1000            repeats are shown once; --all shows every one
  modelfactory plan backbone=resnet50 model=linear_head data=fake --short
  modelfactory plan model=cnn --json | jq .totals
  modelfactory plan init=kaiming_normal --against init=xavier_normal activation=tanh

Exit status: 0 done, 2 the config is wrong. Overrides are those of `modelfactory train`."""
_EXPLAIN = """\
Shows why a parameter gets the values it gets: every rule in order and by which part of its selector it picked, which
one won and why, the scheme with its arguments, how the fans follow from the layer, which activation decided the gain,
the generator that draws it, and what freezes it."""
_EXPLAIN_EXAMPLES = """\
examples
  modelfactory explain head.weight model=cnn init=xavier_normal
  modelfactory explain 'conv*.weight' model=cnn
  modelfactory explain head.bias model=mlp '+init.rules.mine={match: "head.*", scheme: zeros}' --json

Exit status: 0 done, 2 the config is wrong or has no such parameter."""

_AUDIT = """\
Builds the model of a config and looks at its initial values, on the first batch of its data where it has some: what was
never written, what is equal where it must differ, scales that do not fit, ends that should be 0, a first loss far from
that of a guess. With --checkpoint, what of the model that file did not give. docs/audit.md has a section on each finding."""
_AUDIT_EXAMPLES = """\
examples
  modelfactory audit model=cnn init=xavier_normal
  modelfactory audit model=cnn --checkpoint outputs/DATE/TIME
  modelfactory audit model=own model._target_=my_pkg.MyNet --level error --json

Exit status: 0 nothing of that level, 1 findings, 2 the config is wrong. Overrides are those of `modelfactory train`."""


def plan(arguments: Sequence[str]) -> str:
    """What `modelfactory plan ARGUMENTS` prints.

    Raises:
        ConfigError: a config that is wrong.
    """
    words = list(arguments)
    at = words.index("--against") if "--against" in words else None
    given = _plan_parser().parse_intermixed_args(words[:at])
    if at is None:
        made = _look(given, given.overrides)
        if given.json:
            return _json(made.to_dict())
        return made.overview.short(_width()) if given.short else made.overview.text(every=given.all, width=_width())
    if given.short:
        raise ConfigError([Problem("--short", "is of one config; leave it out beside --against")])
    second = _plan_parser().parse_intermixed_args(words[at + 1 :])
    for name in ("config_dir", "config_name"):
        setattr(second, name, getattr(second, name) or getattr(given, name))
    difference = _look(given, given.overrides).against(_look(second, second.overrides, "--against "))
    return _json(difference.to_dict()) if given.json or second.json else difference.text(_width())


def explain(arguments: Sequence[str]) -> str:
    """What `modelfactory explain ARGUMENTS` prints.

    Raises:
        ConfigError: a config that is wrong, or has no such parameter.
    """
    given = _explain_parser().parse_intermixed_args(list(arguments))
    if "=" in given.name:
        what = f"{given.name!r} is an override; the name of a parameter comes first, or a glob, such as '*.weight'"
        raise ConfigError([Problem("", what)])
    found = _look(given, given.overrides).explain(given.name)
    return _json([explanation.to_dict() for explanation in found]) if given.json else found.text(_width())


def audit(arguments: Sequence[str]) -> tuple[str, bool]:
    """What `modelfactory audit ARGUMENTS` prints, and whether nothing of its level was found.

    Raises:
        ConfigError: a config that is wrong, or no such checkpoint.
    """
    given = _audit_parser().parse_intermixed_args(list(arguments))
    cfg = _compose(given, given.overrides)
    from modelfactory.api.audited import audit_config

    found = audit_config(cfg, given.checkpoint)
    return _json(found.to_dict()) if given.json else found.text(_width()), not found.at(given.level)


def _compose(given: argparse.Namespace, overrides: Sequence[str]) -> Any:
    from modelfactory.config.compose import compose
    from modelfactory.config.rejected_overrides import with_the_rest

    try:
        return compose(*overrides, config_dir=given.config_dir, config_name=given.config_name or "config")
    except ConfigError as error:
        raise with_the_rest(error, _check) from error


def _look(given: argparse.Namespace, overrides: Sequence[str], which: str = "") -> Any:
    try:
        return _check(_compose(given, overrides))
    except ConfigError as error:
        raise ConfigError(Problem(f"{which}{problem.path}", problem.message) for problem in error.problems) from error


def _check(cfg: Any) -> Any:
    from modelfactory.api.run import check

    return check(cfg, strict=False)  # another project's config may be looked at


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, allow_nan=False)


def _width() -> int:
    """Columns of the terminal, or of COLUMNS where that is set, and at least 60."""
    return max(60, shutil.get_terminal_size((PAGE, 24)).columns if sys.stdout.isatty() or "COLUMNS" in os.environ else PAGE)


def _parser(name: str, description: str, examples: str, usage: str) -> argparse.ArgumentParser:
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog=f"modelfactory {name}", usage=usage, description=description, epilog=examples, formatter_class=kind, allow_abbrev=False
    )
    parser.add_argument("--json", action="store_true", help="everything as JSON, in a layout that stays (docs/plan.md, docs/audit.md)")
    parser.add_argument("-cd", "--config-dir", metavar="DIR", help="a folder of your own configs, whose groups come first")
    parser.add_argument("-cn", "--config-name", metavar="NAME", help="the primary config (default: config)")
    return parser


def _plan_parser() -> argparse.ArgumentParser:
    usage = "modelfactory plan [OVERRIDES ...] [--all | --short] [--json] [--against OVERRIDES ...]"
    parser = _parser("plan", _PLAN, _PLAN_EXAMPLES, usage)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDES", help="as for train: model=cnn init=xavier_normal ...")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--all", action="store_true", help="every repeat and every parameter, and not those alike once")
    amount.add_argument("--short", action="store_true", help="on one screen: repeats folded, sums and the verdict of the signal")
    parser.add_argument("--against", nargs="*", metavar="OVERRIDES", help="a second config, whole: shows what differs from the first")
    return parser


def _audit_parser() -> argparse.ArgumentParser:
    usage = "modelfactory audit [OVERRIDES ...] [--checkpoint FILE] [--level LEVEL] [--json]"
    parser = _parser("audit", _AUDIT, _AUDIT_EXAMPLES, usage)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDES", help="as for train: model=cnn init=xavier_normal ...")
    parser.add_argument("--checkpoint", metavar="FILE", help="a .safetensors, .pt or .pth file, or a run's directory, loaded first")
    parser.add_argument("--level", default="warn", choices=("warn", "error"), help="the least that gives exit status 1 (default: warn)")
    return parser


def _explain_parser() -> argparse.ArgumentParser:
    parser = _parser("explain", _EXPLAIN, _EXPLAIN_EXAMPLES, "modelfactory explain NAME [OVERRIDES ...] [--json]")
    parser.add_argument("name", metavar="NAME", help="a parameter, such as head.weight, or a glob")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDES", help="as for train: model=cnn init=xavier_normal ...")
    return parser
