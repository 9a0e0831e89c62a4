"""The commands about a run that is there: `modelfactory eval` and `modelfactory predict`."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Sequence
from typing import Any

_EVAL = """\
Measures the model of a run on its data: the mean loss and, for classes, the accuracy; on the test split, or where the data have none on the
validation split."""
_PREDICT = """\
Gives what the model of a run makes of files: images, prepared as its validation images were, or CSV files of one sample a row, in the
numbers that the model takes. A line a sample: the class and its probability, or the values."""


def evaluate(arguments: Sequence[str]) -> str:
    """Give what `modelfactory eval ARGUMENTS` prints.

    Raises:
        ConfigError: there is no such run, or its data are not there.
    """
    parser = argparse.ArgumentParser(prog="modelfactory eval", description=_EVAL, allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", help="the directory of a run, such as outputs/DATE/TIME")
    parser.add_argument("--split", choices=("test", "val", "train"), help="which part (default: test, or val where there is none)")
    parser.add_argument("--json", action="store_true", help="as JSON")
    given = parser.parse_args(list(arguments))
    from modelfactory.api.own_loop import evaluate_run

    split, measured = evaluate_run(given.run, split=given.split)
    if given.json:
        return json.dumps({"split": split, **measured}, indent=2)
    return "\n".join([f"split     {split}", *(f"{name:<9} {value:.6g}" for name, value in measured.items())])


def predict(arguments: Sequence[str]) -> str:
    """Give what `modelfactory predict ARGUMENTS` prints.

    Raises:
        ConfigError: there is no such run, or a file cannot be read or does not go with it.
    """
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="modelfactory predict", description=_PREDICT, allow_abbrev=False, formatter_class=kind)
    parser.add_argument("run", metavar="RUN", help="the directory of a run, such as outputs/DATE/TIME")
    parser.add_argument("files", metavar="FILES", nargs="+", help="images, or CSV files")
    parser.add_argument("--json", action="store_true", help="the outputs of every sample as JSON")
    given = parser.parse_args(list(arguments))
    from modelfactory.api.own_loop import predict as compute
    from modelfactory.api.own_loop import read_inputs
    from modelfactory.api.saved_model import read_run, rebuild

    run = read_run(given.run)
    inputs = read_inputs(given.files, run.config)
    outputs = compute(rebuild(run), inputs)
    if given.json:
        return json.dumps(outputs.tolist())
    return _table(outputs, _is_classes(run.config, outputs))


def _is_classes(config: Any, outputs: Any) -> bool:
    """Whether the outputs are logits of classes: one a class, and no loss of values is named."""
    data, loss = config.get("data") or {}, (config.get("trainer") or {}).get("loss") or {}
    named = str(loss.get("_target_", ""))
    of_values = named.rpartition(".")[2] in ("MSELoss", "L1Loss", "HuberLoss", "SmoothL1Loss")
    return outputs.ndim == 2 and outputs.shape[1] > 1 and data.get("num_classes") == outputs.shape[1] and not of_values


def _table(outputs: Any, of_classes: bool) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if of_classes:
        writer.writerow(("sample", "class", "probability"))
        probabilities, classes = outputs.softmax(1).max(1)
        rows = zip(classes.tolist(), probabilities.tolist(), strict=True)
        writer.writerows((index, label, f"{share:.4f}") for index, (label, share) in enumerate(rows))
    else:
        values = outputs.flatten(1) if outputs.ndim > 1 else outputs[:, None]
        writer.writerow(("sample", *(f"output{index}" for index in range(values.shape[1]))))
        writer.writerows((index, *(f"{value:.6g}" for value in row)) for index, row in enumerate(values.tolist()))
    return text.getvalue().rstrip("\n")
