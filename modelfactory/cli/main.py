"""The command line: `modelfactory train`, `plan`, `explain`, `audit` and `report`, and `python train.py`.

Nothing here imports torch before a model is wanted: `--help`, `--cfg job` and shell completion answer at once.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from modelfactory.cli.completion import complete
from modelfactory.cli.streams import open_streams, say, silence
from modelfactory.config.beside import look_beside
from modelfactory.config.errors import ConfigError, ModelFactoryError, did_you_mean
from modelfactory.config.printable import printable
from modelfactory.training.launched import launched
from modelfactory.training.stopping import Terminated, signals_handled

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130

_USAGE = """\
usage: modelfactory COMMAND [OVERRIDES]

commands
  train    train the model that a config describes, or with -m a sweep of them
  plan     show what would be built, layer by layer, without building it; or what tells two configs apart
  explain  show which rule sets a parameter and why, its fans, its gain, and what draws it
  audit    look for what is wrong with the initial values of a model, or of one loaded from a checkpoint
  coordcheck  measure over widths and depths what steps change, and whether the learning rate transfers
  report   rank the schemes of a sweep and draw its page, also while it runs; of a run as well
  eval     measure the model of a run on its data
  predict  give what the model of a run makes of files
  list     list the configs of a group, with a line on each
  new      write a project: its own data, layer, initialisation and configs
  schema   write JSON schemas of the configs, for editors

examples
  modelfactory train init=kaiming_normal
  modelfactory train -m init=kaiming_normal,xavier_normal seed=0,1
  modelfactory plan model=cnn init=xavier_normal
  modelfactory plan model=cnn --against model=resnet
  modelfactory explain head.weight model=cnn
  modelfactory audit model=cnn init=xavier_normal
  modelfactory report multirun/DATE/TIME
  modelfactory predict outputs/DATE/TIME photos/*.jpg
  modelfactory list backbone 'resnet*'
  modelfactory new my_project

`modelfactory COMMAND --help` tells more of each; that of train lists the groups and keys that can be overridden.
"""
_VIEWS = {
    "coordcheck": "coordcheck:coordcheck",
    "eval": "on_runs:evaluate",
    "predict": "on_runs:predict",
    "list": "listing:list_configs",
    "new": "new_project:new",
    "schema": "schemas:write_schemas",
}
log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """The console script; returns the exit status: 0 done, 1 failed while running, 2 the configuration is wrong.

    Example:
        >>> main(["trian"])
        2
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": train,
        "plan": plan,
        "explain": explain,
        "audit": audit,
        "report": report,
        **{name: partial(_show, view) for name, view in _VIEWS.items()},
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return DONE if arguments else WRONG
    if arguments[0] == "--version":
        print(f"modelfactory {_version()}")
        return DONE
    if arguments[0] in ("-sc", "--shell-completion"):
        return DONE if complete(commands, _VIEWS) else train(arguments)
    if arguments[0] not in commands:
        print(f"error: {arguments[0]!r} is not a command{did_you_mean(arguments[0], commands)}", file=sys.stderr)
        return WRONG
    look_beside(arguments)
    return commands[arguments[0]](arguments[1:])


def train(arguments: Sequence[str] | None = None) -> int:
    """Trains, once or (with -m) for every job of a sweep; all of Hydra's own options work.

    Args:
        arguments: those of the command line when None.

    Returns:
        The exit status. A sweep's is 2 if any job's config is wrong, before any runs; else 1 if any job did not complete.
    """
    from modelfactory.cli.hydra_app import run_application

    words = sys.argv[1:] if arguments is None else arguments
    sweeps: list[Path] = []
    status = DONE
    open_streams()
    look_beside(words)
    try:
        with signals_handled(), _launched_together() as world:
            run_application(train_config, words, check_config, sweeps.append, world)
    except KeyboardInterrupt as error:
        with suppress(OSError):  # the terminal may be gone
            print(str(error) or "interrupted", file=sys.stderr)
        status = error.status if isinstance(error, Terminated) else INTERRUPTED
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
        status = _tell(error)
    return _end_sweep(sweeps[0], status) if sweeps else status


@contextmanager
def _launched_together() -> Iterator[Any]:
    """The processes that a launcher such as torchrun started for this run; None where there is this one."""
    if launched().size == 1:
        yield None
        return
    from modelfactory.training.launch import open_world

    with open_world() as world:
        yield world if world.size > 1 else None


def _is_first() -> bool:
    """Whether this is the process that tells how a run ended; there may be several (`torchrun`)."""
    try:
        return launched().rank == 0
    except ConfigError:  # of a launcher's variables, which each process tells
        return True


def _end_sweep(folder: Path, status: int) -> int:
    """Reports a sweep, names what did not complete on stderr, and returns its exit status: `status` unless a job failed."""
    from modelfactory.reporting.report import FILES
    from modelfactory.reporting.report import report as make_report
    from modelfactory.sweeping.records import read_sweep

    try:
        print(make_report(folder, pictures=False).text(failures=False))  # they are named below, and elsewhere
        print(f"\n{', '.join(FILES)}: in {folder}")
    except Exception as error:  # what became of the jobs is told all the same
        status = max(status, _tell(error))
    sweep = read_sweep(folder)
    left = [job for job in sweep.jobs if job.status != "completed"]
    failed = [job for job in left if job.status not in ("pending", "running")]
    print(f"{len(sweep.jobs) - len(left)} of {len(sweep.jobs)} jobs completed: {sweep.folder}")
    if status >= 128:
        print("the same command goes on with this sweep", file=sys.stderr)
        return status
    for job in failed:
        print(f"error: job {job.number} ({sweep.title(job)}): {job.status}: {job.reason}", file=sys.stderr)
    if num := len(left) - len(failed):
        jobs, them = ("1 job", "it") if num == 1 else (f"{num} jobs", "them")
        print(f"error: {jobs} did not end; the same command goes on with {them}", file=sys.stderr)
    _tell_hints(sweep)
    if left:
        return FAILED if status == DONE else status
    return _conclude(folder) if status == DONE else status


def _tell_hints(sweep: Any) -> None:
    """Say once for a sweep how many of its jobs have a hint, and the first of them."""
    from modelfactory.training.status import read_result

    hinted = [(job, hints) for job in sweep.jobs if (hints := (read_result(job.folder) or {}).get("hints"))]
    if hinted:
        job, hints = hinted[0]
        print(f"hints: {len(hinted)} of {len(sweep.jobs)} jobs have one (hints in result.json), such as job {job.number}: {hints[0]}")


def _conclude(folder: Path) -> int:
    """Draws and prints what an experiment is about, when all of its runs are done; nothing of a sweep that is about nothing."""
    from modelfactory.reporting.papers.conclude import conclude
    from modelfactory.reporting.papers.outcome import FILES

    try:
        outcome = conclude(folder)
    except ModelFactoryError as error:
        return _tell(error)
    if outcome is not None:
        print(f"\n{outcome}\n\n{', '.join(FILES)}: in {folder}")
    return DONE


def check_config(cfg: Any) -> Any:
    """Check the config of a run, strictly: every key has to be known; returns the plan of its model."""
    from modelfactory.config.compose import to_plain

    to_plain(cfg)
    from modelfactory.api.run import check

    return check(cfg)


def train_config(cfg: Any) -> None:
    """A run: trains in the directory that Hydra made."""
    from modelfactory.cli.hydra_app import current_folder, started_in
    from modelfactory.sweeping.job import job_config

    folder = current_folder()
    try:
        plain = job_config(cfg, started_in())
        from modelfactory.api.run import train as train_run

        result = train_run(plain, folder)
    except Exception as error:
        if not isinstance(error, ConfigError) and _is_first():
            from modelfactory.training.status import end_record, status_of, told

            end_record(folder, status_of(error), told(error))
        raise
    if _is_first():
        say(f"done: {result.outcome}: {folder}")


def _tell(error: Exception) -> int:
    """Prints what failed, on stderr without a traceback, and returns the exit status."""
    if isinstance(error, ConfigError):
        if not _is_first():  # each process finds the same, or is told it
            return WRONG
        print("error: the configuration is wrong", file=sys.stderr)
        print("\n".join(f"  {line}" for line in str(error).splitlines()), file=sys.stderr)
        return WRONG
    place = "" if _is_first() else f"process {launched().rank}: "
    print(f"{place}error: {type(error).__name__}: {error}", file=sys.stderr)
    if not isinstance(error, ModelFactoryError):
        print("(set HYDRA_FULL_ERROR=1 to see where)", file=sys.stderr)
    return FAILED


def plan(arguments: Sequence[str]) -> int:
    """Prints what a config would build, layer by layer, or what tells two apart; nothing is allocated."""
    from modelfactory.cli import plan_and_explain as viewing

    return _print(viewing.plan, arguments)


def explain(arguments: Sequence[str]) -> int:
    """Prints why a parameter gets the values it gets."""
    from modelfactory.cli import plan_and_explain as viewing

    return _print(viewing.explain, arguments)


def audit(arguments: Sequence[str]) -> int:
    """Prints what is wrong with the initial values of a model; the exit status is 1 where something is."""
    from modelfactory.cli import plan_and_explain as viewing

    clean = True

    def view(words: Sequence[str]) -> str:
        nonlocal clean
        text, clean = viewing.audit(words)
        return text

    status = _print(view, arguments)
    return FAILED if status == DONE and not clean else status


def _show(view: str, arguments: Sequence[str]) -> int:
    """Prints what a function of this room gives, which is imported when it is wanted."""
    return _print(pkgutil.resolve_name(f"modelfactory.cli.{view}"), arguments)


def _print(view: Callable[[Sequence[str]], str], arguments: Sequence[str]) -> int:
    try:
        print(view(arguments))
        return DONE
    except SystemExit as stop:  # the parser's: of --help, or of a flag that there is not
        return int(stop.code or 0)
    except BrokenPipeError:
        silence()
        return DONE
    except ConfigError as error:
        return _tell(error)


def report(arguments: Sequence[str]) -> int:
    """Prints the ranking of a sweep, or the result of a run, and writes summary.csv, curves.png and report.html there."""
    what = "Rank the schemes of a sweep by a paired comparison over seeds; write summary.csv, curves.png, report.html, each signal.png."
    parser = argparse.ArgumentParser(prog="modelfactory report", description=what)
    parser.add_argument("folder", help="a sweep's, such as multirun/DATE/TIME, also while it runs; or a run's")
    metrics = "val_loss, train_loss, val_accuracy, test_loss or test_accuracy"
    parser.add_argument("--metric", help=f"{metrics}; without it what the trainer monitored")
    parser.add_argument("--epoch", default="best", help="whose score counts: best (by what was monitored) or final")
    parser.add_argument("--by", action="append", help="swept keys that make a scheme, such as init,model; others are paired like seeds")
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead")
    given = parser.parse_args(list(arguments))
    from modelfactory.reporting.report import FILES
    from modelfactory.reporting.report import report as make_report

    by = None if given.by is None else [key for text in given.by for key in text.split(",")]
    try:
        made = make_report(given.folder, metric=given.metric, epoch=given.epoch, by=by)
    except ConfigError as error:
        print("\n".join(f"error: {problem}" for problem in error.problems), file=sys.stderr)
        return WRONG
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    if given.json:
        print(json.dumps(made.plain(), indent=2))
    else:
        print(f"{made}\n\n{', '.join(FILES)}: in {printable(given.folder)}")
        if all(job.status == "completed" for job in made.sweep.jobs):
            return _conclude(Path(given.folder))
    return DONE


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("modelfactory")
    except PackageNotFoundError:
        return "(not installed)"
