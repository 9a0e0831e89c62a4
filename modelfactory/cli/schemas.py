"""The command `modelfactory schema`: JSON schemas of the configs, by which editors complete and check YAML."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelfactory.config.files import write_text

_SCHEMA = """\
Writes JSON schemas of the configs: of a whole one (config.json), and of the files of each group. An editor with a YAML language server
(VS Code's YAML extension, Neovim, JetBrains) completes keys and marks mistakes in a file that names its schema in the first line:

  # yaml-language-server: $schema=../../schemas/model.json

What is under `_target_` is checked for torch, torchvision and this package; interpolations are taken anywhere."""
_EXAMPLES = """\
examples
  modelfactory schema
  modelfactory schema my_project/schemas"""


def write_schemas(arguments: Sequence[str]) -> str:
    """Do what `modelfactory schema ARGUMENTS` does, and give what it prints.

    Raises:
        OSError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(write_schemas([folder]).splitlines()[0].rpartition(": ")[2])
        config.json, activation.json, backbone.json, data.json, experiment.json, freeze.json, init.json, model.json, optimizer.json, \
scheduler.json, trainer.json
    """
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="modelfactory schema", description=_SCHEMA, epilog=_EXAMPLES, formatter_class=kind, allow_abbrev=False
    )
    parser.add_argument("folder", metavar="DIR", nargs="?", default="schemas", help="where they go (default: schemas)")
    folder = Path(parser.parse_args(list(arguments)).folder)
    from modelfactory.api.config_schema import GROUPS, config_schema, group_schema

    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.json", _text(config_schema()))
    groups = sorted(set(GROUPS) - {"sweep"})
    for group in groups:
        write_text(folder / f"{group}.json", json.dumps(group_schema(group), indent=1) + "\n")
    names = ", ".join(f"{name}.json" for name in ("config", *groups))
    return f"{folder}: {names}\nthe first line of a file: # yaml-language-server: $schema=PATH/GROUP.json"


def _text(schema: Mapping[str, Any]) -> str:
    """The schema with a definition a line, so that two versions can be told apart."""
    definitions = ",\n".join(f"  {json.dumps(name)}: {json.dumps(made)}" for name, made in schema["$defs"].items())
    head = json.dumps({name: value for name, value in schema.items() if name != "$defs"})
    return f'{head[:-1]},\n "$defs": {{\n{definitions}\n }}}}\n'
