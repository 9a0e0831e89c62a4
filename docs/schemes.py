"""Writes docs/schemes.md and its pictures, docs/schemes/*.svg: python docs/schemes.py"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from modelfactory.init.recipes import recipe, recipe_names
from modelfactory.init.schemes.table import REQUIRED, SCHEMES, arguments
from modelfactory.numerics.rng import generator

HERE = Path(__file__).parent
PAGE, PICTURES = HERE / "schemes.md", HERE / "schemes"
MATRIX, CONV, SMALL = (256, 256), (64, 64, 3, 3), (12, 12)
# What is drawn for the page: a shape, and the arguments that a scheme cannot do without. A matrix of 256x256 unless told.
SHOWN: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "constant": ((16,), {"val": 0.25}),
    "ones": ((16,), {}),
    "zeros": ((16,), {}),
    "eye": (SMALL, {}),
    "dirac": ((12, 12, 3), {}),
    "orthogonal": (SMALL, {}),
    "delta_orthogonal": ((12, 12, 3), {}),
    "sparse": (SMALL, {"sparsity": 0.5}),
    "icnr": ((12, 2, 3, 3), {}),
    "bilinear": ((1, 1, 12, 12), {}),
    "zero_hadamard": ((16, 8), {}),
    "normal": (MATRIX, {"std": 0.02}),
    "trunc_normal": (MATRIX, {"std": 0.02, "a": -0.04, "b": 0.04}),
    "uniform": (MATRIX, {"a": -0.1, "b": 0.1}),
    "gpt2": (MATRIX, {"branches": 24}),
    "completep": (MATRIX, {"base_branches": 4, "undivided": 16}),
    "fixup": (MATRIX, {"branches": 16, "branch_layers": 2}),
    "t_fixup": (MATRIX, {"depth": 6}),
    "t_fixup_embedding": (MATRIX, {"depth": 6}),
    "deepnorm": (MATRIX, {"depth": 12}),
    "small_init": (MATRIX, {"width": 256}),
    "depth_trunc_normal": (MATRIX, {"layer": 3}),
    "mup": (MATRIX, {"base_width": 64}),
    "siren": (MATRIX, {"first": False}),
    "prior_bias": ((4,), {"priors": [0.6, 0.25, 0.1, 0.05]}),
    "forget_bias": ((16,), {}),
    "chrono": ((32,), {"max_steps": 100}),
    "critical_bias": ((4096,), {}),
}
BINS, WIDTH, HEIGHT = 48, 240, 80


def drawn(name: str) -> Tensor:
    shape, args = SHOWN.get(name, (MATRIX, {}))
    scheme = SCHEMES[name]
    extra = {"generator": generator(0, name)} if scheme.random else {}
    return scheme.fill(torch.empty(shape), **args, **extra)


def picture(name: str) -> str:
    """A histogram where entries are independent; a map of the matrix where they hang together; bars for a bias."""
    values = drawn(name)
    if values.ndim == 1 and len(values) <= 64:
        body = _bars(values)
    elif SCHEMES[name].elementwise:
        body = _histogram(values)
    else:
        kernel = values.squeeze()
        body = _map(kernel if kernel.ndim == 2 else values.flatten(1), "taps" if values.shape[0] == 1 else "outputs down, inputs across")
    box = f'viewBox="0 0 {WIDTH} {HEIGHT + 14}" width="{2 * WIDTH}" font-family="sans-serif" font-size="9"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>{body}</svg>\n'


def _histogram(values: Tensor) -> str:
    reach = float(values.abs().max()) * 1.05 or 1.0
    counts = torch.histc(values, BINS, -reach, reach)
    step = WIDTH / BINS
    bars = "".join(
        f'<rect x="{index * step:.1f}" y="{HEIGHT * (1 - share):.1f}" width="{step - 0.5:.1f}" height="{HEIGHT * share:.1f}"/>'
        for index, share in enumerate((counts / counts.max()).tolist())
        if share > 0.002
    )
    labels = "".join(
        f'<text x="{x}" y="{HEIGHT + 11}" text-anchor="{anchor}">{value:.3g}</text>'
        for x, anchor, value in ((0, "start", -reach), (WIDTH / 2, "middle", 0), (WIDTH, "end", reach))
    )
    return f'<g fill="#4c72b0">{bars}</g><path d="M0 {HEIGHT}H{WIDTH}" stroke="#888"/><g fill="#555">{labels}</g>'


def _bars(values: Tensor) -> str:
    reach = float(values.abs().max()) or 1.0
    step = WIDTH / len(values)
    bars = "".join(
        f'<rect x="{index * step:.1f}" y="{HEIGHT / 2 * (1 - max(value, 0)):.1f}" width="{step - 1:.1f}" '
        f'height="{HEIGHT / 2 * abs(value):.1f}" fill="{_colour(value)}"/>'
        for index, value in enumerate((values / reach).tolist())
        if value
    )
    tallest = f"tallest {reach:.3g}" if bool(values.any()) else "all 0"
    label = f'<text x="0" y="{HEIGHT + 11}" fill="#555">{tallest}; one bar an entry</text>'
    return f'{bars}<path d="M0 {HEIGHT / 2}H{WIDTH}" stroke="#888"/>{label}'


def _map(values: Tensor, what: str) -> str:
    rows, columns = values.shape
    size = min(WIDTH / columns, HEIGHT / rows)
    reach = float(values.abs().max()) or 1.0
    cells = "".join(
        f'<rect x="{column * size:.1f}" y="{row * size:.1f}" width="{size:.1f}" height="{size:.1f}" '
        f'fill="{_colour(value)}" fill-opacity="{abs(value):.2f}"/>'
        for row, line in enumerate((values / reach).tolist())
        for column, value in enumerate(line)
        if abs(value) > 0.02
    )
    frame = f'<rect width="{columns * size:.1f}" height="{rows * size:.1f}" fill="none" stroke="#bbb"/>'
    return f'{cells}{frame}<text x="0" y="{HEIGHT + 11}" fill="#555">{rows} outputs down, inputs across; strongest {reach:.3g}</text>'


def _colour(value: float) -> str:
    return "#c44e52" if value < 0 else "#4c72b0"


def _section(name: str) -> str:
    scheme = SCHEMES[name]
    shape, args = SHOWN.get(name, (MATRIX, {}))
    mean, std = scheme.moments(shape, None, **args)
    given = ", ".join(
        f"{key} (the model's own)" if key in scheme.structural else key if value is REQUIRED else f"{key}={value:.4g}"
        if isinstance(value, float)
        else f"{key}={value}"
        for key, value in arguments(name).items()
    )
    with_what = f" with {', '.join(f'{key}={value}' for key, value in args.items())}" if args else ""
    example = _example(scheme.fill)
    return "\n".join(
        [
            f"### {name}",
            scheme.summary,
            "",
            f"![{name}](schemes/{name}.svg)",
            "",
            f"- **Formula** {scheme.formula}",
            f"- **When** {scheme.when}",
            f"- **Source** {scheme.source}",
            f"- **Arguments** {given or 'none'}",
            f"- **Expected** in a tensor {'x'.join(map(str, shape))}{with_what}: mean {mean:.4g}, std {std:.4g}",
            "",
            "```pycon",
            f">>> from modelfactory.init import {name}_",
            *example,
            "```",
            "",
        ]
    )


def _example(fill: Any) -> list[str]:
    found = re.search(r"^Example:\n(.+?)(?:\n\n|\Z)", inspect.getdoc(fill) or "", re.DOTALL | re.MULTILINE)
    return inspect.cleandoc("\n" + found[1]).splitlines() if found is not None else []


def _recipes() -> str:
    lines = ["| `init=` | what | its rules beside the author's own init and biases of 0 |", "|---|---|---|"]
    for name in recipe_names():
        text = (HERE.parent / "conf" / "init" / f"{name}.yaml").read_text()
        what = text.splitlines()[1].removeprefix("# ")  # after the line for editors
        group = recipe(name) or {}
        left_out = () if name in ("default", "critical") else ("author", "biases")
        rules = [rule for key, rule in group["rules"].items() if key not in left_out]
        shown = "; ".join(yaml.safe_dump(rule, default_flow_style=True, width=1000, sort_keys=False).strip() for rule in rules)
        after = f"; then calibrate: {group['calibrate']}" if group["calibrate"] else ""
        lines.append(f"| `{name}` | {what} | `{shown}`{after} |")
    return "\n".join(lines)


INTRODUCTION = """# Schemes
Generated by `python docs/schemes.py` from the docstrings of `modelfactory.init`, where each scheme is a function in place on a tensor that
needs no config. In a config `scheme: NAME` in a rule, with arguments beside it; [init.md](init.md) has rules, roles, gains and fans.

n_in and n_out are the operator's own fans, g the gain. Pictures are one draw: a histogram of a 256x256 matrix where entries are
independent, a map of a small matrix where they are not (blue above 0, red below), bars for a bias. Every scheme is held to its formula
by tests/contract/test_conformance.py.

## Whole models: init=NAME
"""


def page(_text: str = "") -> str:
    """The whole page; what it was before does not matter."""
    sections = "\n".join(map(_section, SCHEMES))
    return f"{INTRODUCTION}{_recipes()}\n\n## Schemes one by one\n{sections}".rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    PICTURES.mkdir(exist_ok=True)
    for scheme_name in SCHEMES:
        (PICTURES / f"{scheme_name}.svg").write_text(picture(scheme_name))
