"""The command `modelfactory coordcheck`: update sizes over widths and depths, and whether the learning rate transfers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from modelfactory.config.compose import compose
from modelfactory.config.errors import ConfigError, Problem

FLAGS = (
    "--config-dir", "--config-name", "--depth-key", "--depths", "--help", "--json", "--lr", "--lr-steps", "--out", "--seeds", "--steps",
    "--width-key", "--widths",
)  # fmt: skip
OUT = "outputs/coordcheck"

_WHAT = """\
Trains a config for a few steps at several widths and depths, and shows how much they change of each layer's output (the coordinate
check of muP): where that grows with the width, a learning rate that is right for one width is too large for another. With --lr, each width
is trained at each rate, and a verdict says whether the best one moves."""
_EXAMPLES = """\
examples
  modelfactory coordcheck model=deep_mlp init=mup optimizer=adam_mup
  modelfactory coordcheck model=vit --widths 32,64,128 --depths 2,4,8 --steps 10
  modelfactory coordcheck model=mlp --lr 1e-4,3e-4,1e-3,3e-3,1e-2,3e-2
  modelfactory coordcheck model=own model._target_=my_pkg.MyNet '+model.hidden=64' --width-key model.hidden

Exit status: 0 done, 2 the config is wrong. Overrides are those of `modelfactory train`; the config's schedule is left out."""


def coordcheck(arguments: Sequence[str]) -> str:
    """Give what `modelfactory coordcheck ARGUMENTS` prints, and leave coordcheck.png and coordcheck.csv.

    Raises:
        ConfigError: a config that is wrong, sizes that are not numbers, or no such key.
    """
    given = _parser().parse_intermixed_args(list(arguments))
    sizes = {name: None if (text := getattr(given, name)) is None else _numbers(f"--{name}", text, int) for name in ("widths", "depths")}
    lrs = _numbers("--lr", given.lr, float) if given.lr else ()
    cfg = compose(*given.overrides, config_dir=given.config_dir, config_name=given.config_name or "config")
    from modelfactory.api.coordcheck import coordcheck as measure
    from modelfactory.reporting.coordinates import FILES

    keys = {name: value for name in ("width_key", "depth_key") if (value := getattr(given, name)) is not None}
    found = measure(cfg, lrs=lrs, steps=given.steps, lr_steps=given.lr_steps, seeds=given.seeds, **sizes, **keys)
    found.write(given.out)
    if given.json:
        return json.dumps(found.to_dict(), indent=2, allow_nan=False)
    return f"{found}\n\n{', '.join(FILES)}: in {given.out}"


def _numbers(flag: str, text: str, kind: type[int] | type[float]) -> tuple[int | float, ...]:
    """Numbers with commas between; none of the word none.

    Example:
        >>> _numbers("--widths", "64,128", int), _numbers("--depths", "none", int)
        ((64, 128), ())
    """
    if text == "none":
        return ()
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        what = "whole numbers" if kind is int else "numbers"
        raise ConfigError([Problem(flag, f"{text!r} is not a list of {what} with commas between, such as 64,128")]) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="modelfactory coordcheck",
        usage="modelfactory coordcheck [OVERRIDES ...] [--widths 64,128,256] [--depths 2,4,8] [--lr 1e-3,1e-2,...] [--json]",
        description=_WHAT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDES", help="as for train: model=deep_mlp init=mup ...")
    parser.add_argument("--widths", metavar="N,N,...", help="of the model (default: 64,128,256,512 where there is the key), or none")
    parser.add_argument("--depths", metavar="N,N,...", help="of the model (default: 2,4,8,16 where there is the key), or none")
    parser.add_argument("--lr", metavar="X,X,...", help="learning rates to train each width at; without them none is")
    parser.add_argument("--steps", type=int, default=5, help="of the optimizer, after which outputs are compared (default: 5)")
    parser.add_argument("--lr-steps", type=int, default=60, help="of each training with --lr (default: 60)")
    parser.add_argument("--seeds", type=int, default=2, help="over which all is a mean (default: 2)")
    parser.add_argument("--width-key", metavar="KEY", help="what of the config is the width (default: model.width)")
    parser.add_argument("--depth-key", metavar="KEY", help="what of the config is the depth (default: model.depth)")
    parser.add_argument("--out", metavar="DIR", default=OUT, help=f"where the picture and the table go (default: {OUT})")
    parser.add_argument("--json", action="store_true", help="everything as JSON")
    parser.add_argument("-cd", "--config-dir", metavar="DIR", help="a folder of your own configs, whose groups come first")
    parser.add_argument("-cn", "--config-name", metavar="NAME", help="the primary config (default: config)")
    return parser
