"""The command line, run as a user runs it: exit status, what is printed, and what is left on the disk."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from modelfactory.cli import main as cli

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("trainer=debug", "trainer.device=cpu", "trainer.progress=none")


def run(folder: Path, *arguments: str, program: tuple[str, ...] = (str(ROOT / "train.py"),), **environment: str):
    """Runs `python PROGRAM ARGUMENTS` in `folder`, warnings being errors."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", **environment}
    words = [sys.executable, *program, *arguments]
    return subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)


def command(folder: Path, *arguments: str, **environment: str):
    """Runs `modelfactory ARGUMENTS`."""
    program = ("-c", "import sys; from modelfactory.cli.main import main; sys.exit(main())")
    return run(folder, *arguments, program=program, **environment)


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_run_leaves_its_directory_and_status_0(tmp_path: Path):
    done = run(tmp_path, "init=kaiming_normal", "seed=3", *QUICK)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs").glob("*/*")
    assert {"config.yaml", "ledger.csv", "metrics.csv", "result.json", "model.safetensors", "train.log"} <= set(left(folder))
    assert "seed: 3\ndata:" in (folder / "config.yaml").read_text().replace("\r", "")
    assert "${" not in (folder / "config.yaml").read_text()
    assert json.loads((folder / "result.json").read_text())["status"] == "completed"
    with open(folder / "ledger.csv", newline="") as file:
        assert {row["scheme"] for row in csv.DictReader(file)} == {"kaiming_normal", "zeros"}
    assert str(folder) in done.stdout


def test_the_installed_command_trains_as_train_py_does(tmp_path: Path):
    done = command(tmp_path, "train", "hydra.run.dir=here", *QUICK)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here" / "model.safetensors").is_file()


# what a wrong command line must say; none of them may leave anything behind
WRONG = [
    (["init=kaimin_normal"], "init: 'kaimin_normal' is not a config of init; did you mean 'kaiming_normal'?"),
    (["model.widht=3"], "model.widht: there is no such key; did you mean 'width'?"),
    (["optimizer.lr=-1"], "optimizer.lr: -1 is too small"),
    (["data.seed=${nope}"], "data.seed: '${nope}' does not resolve"),
    (["seed=${data.seed}"], "seed: '${data.seed}' does not resolve: it leads in a circle"),
    (["model.width=???"], "model.width: is missing (???)"),
    (["nothing"], "missing EQUAL"),
    (["model=mlp,cnn"], "Ambiguous value"),
    (["-cn", "nowhere"], "there is no config 'nowhere'"),
    (["-cd", "nowhere"], "not found"),
    (["--cfg", "job", "-m"], "Only one of"),
    (["-m", "init=zeros,nope"], "init: 'nope' is not a config of init"),
    (["trainer=debug", "-m", "init=zeros,nope", "-cd", ".", "seed=0,1"], "init: 'nope' is not a config of init"),
    (["-m", "seed=0,1", "seed=3"], "seed: is given 2 times (seed=0,1 seed=3), of which a sweep takes the last"),
    (["-m", "init=zeros", "init=glob(x*)", "hydra/sweeper=optuna"], "init: is given 2 times"),
    (["hydra.run.dir=a/b/c", "optimizer.lr=-1"], "optimizer.lr: -1 is too small"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_a_wrong_config_gives_status_2_no_traceback_and_leaves_nothing(tmp_path: Path, arguments: list[str], message: str):
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert left(tmp_path) == []


EVIL = "open('evil', 'w').close()\nclass Thing: pass\n"
LAYER = "+model.layers.x={_target_: evil.Thing}"


@pytest.mark.parametrize(
    "arguments",
    [
        ["+hydra.callbacks.x._target_=evil.Thing"],
        ["+hydra.callbacks.x._target_=torch.load", "+hydra.callbacks.x.f=evil.py"],
        ["+hydra.callbacks.x._target_=logging.torch.load"],
        ["+hydra.callbacks.x={_target_: modelfactory.cli.hydra_app.CheckBeforeRun, y: {_target_: evil.Thing}}"],
        ["+z={_target_: evil.Thing}", "+hydra.callbacks.x=${z}"],
        ["+hydra.job_logging.handlers.x={'()': evil.Thing}"],
        ["+hydra.job_logging.handlers.x={class: logging.StreamHandler, stream: 'ext://evil.Thing'}"],
        ["+hydra.hydra_logging.handlers.x={class: evil.Thing}"],
        ["hydra.launcher._target_=evil.Thing"],
        ["-m", "+hydra.sweeper.x={_target_: evil.Thing}"],
        ["-m", "seed=0", "+hydra.job.env_set.MODELFACTORY_TRUST=evil", LAYER],
        [LAYER],
    ],
    ids=" ".join,
)
def test_hydras_own_node_calls_nothing_that_python_did_not_allow(tmp_path: Path, arguments: list[str]):
    (tmp_path / "evil.py").write_text(EVIL)
    done = run(tmp_path, *arguments, PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}")
    assert done.returncode == 2
    assert left(tmp_path) == ["evil.py"]


def test_a_callback_of_ones_own_is_allowed_by_the_environment(tmp_path: Path):
    (tmp_path / "mine.py").write_text("from hydra.experimental.callback import Callback\nclass Thing(Callback): pass\n")
    arguments = ("+hydra.callbacks.x._target_=mine.Thing", "hydra.run.dir=here", *QUICK)
    done = run(tmp_path, *arguments, PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}", MODELFACTORY_TRUST="mine")
    assert done.returncode == 0, done.stderr


def test_all_problems_are_told_at_once(tmp_path: Path):
    done = run(tmp_path, "optimizer.lr=-1", "trainer.max_epochs=0", "data.batch_size=x", "+init.rules.a.scheme=zeros")
    assert done.returncode == 2
    for path in ("optimizer.lr", "trainer.max_epochs", "data.batch_size", "init.rules.a"):
        assert f"\n  {path}: " in done.stderr


REFUSED = ["model=cn", "init=kaimign_normal", "trainer.max_epoch=3", "optimizer.lrr=1", "optimizer.lr=nan"]
TOLD = """error: the configuration is wrong
  model: 'cn' is not a config of model; did you mean 'cnn'?
  init: 'kaimign_normal' is not a config of init; did you mean 'kaiming_normal'?
  trainer.max_epoch: there is no such key; did you mean 'max_epochs'?
  optimizer.lrr: there is no such key; did you mean 'lr'?
  optimizer.lr: nan is not finite; give a number >= 0
"""


@pytest.mark.parametrize("start", [["train"], ["train", "-m", "seed=0,1"], ["plan"], ["explain", "head.weight"], ["audit"]], ids=" ".join)
def test_every_override_that_is_refused_is_told_with_what_is_wrong_besides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], start: list[str]
):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*start, *REFUSED]) == 2
    assert (capsys.readouterr().err, left(tmp_path)) == (TOLD, [])


FAILING = "import modelfactory.api.run as run, sys\n{}\nfrom modelfactory.cli.main import train\nsys.exit(train())"
RAISES = "def fail(cfg, run_dir=None): raise {}\nrun.train = fail"
WRONG_LATE = RAISES.format("run.ConfigError([run.Problem('data.root', 'is empty')])")


def test_an_error_of_the_config_found_while_loading_leaves_no_directory(tmp_path: Path):
    done = run(tmp_path, program=("-c", FAILING.format(WRONG_LATE)))
    assert (done.returncode, left(tmp_path)) == (2, [])
    assert done.stderr == "error: the configuration is wrong\n  data.root: is empty\n"


def test_what_was_there_before_is_never_removed(tmp_path: Path):
    (tmp_path / "kept" / ".hydra").mkdir(parents=True)
    (tmp_path / "kept" / ".hydra" / "note").write_text("mine")
    done = run(tmp_path, "hydra.run.dir=kept", program=("-c", FAILING.format(WRONG_LATE)))
    assert done.returncode == 2
    assert (tmp_path / "kept" / ".hydra" / "note").read_text() == "mine"


def test_a_failure_while_running_gives_status_1_a_short_error_and_its_record(tmp_path: Path):
    program = ("-c", FAILING.format(RAISES.format("OSError('the disk is on fire')")))
    done = run(tmp_path, "hydra.run.dir=here", program=program)
    assert done.returncode == 1
    assert "error: OSError: the disk is on fire\n(set HYDRA_FULL_ERROR=1 to see where)" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "here" / "result.json").read_text())["error"] == "OSError: the disk is on fire"
    assert "Traceback" in run(tmp_path, "hydra.run.dir=here", program=program, HYDRA_FULL_ERROR="1").stderr


def test_a_value_error_of_a_running_job_is_no_wrong_config(tmp_path: Path):
    done = run(tmp_path, program=("-c", FAILING.format(RAISES.format("ValueError('odd')"))))
    assert done.returncode == 1
    assert "error: ValueError: odd" in done.stderr


def test_a_training_that_diverges_gives_status_1(tmp_path: Path):
    done = run(tmp_path, "optimizer=sgd", "optimizer.lr=1e30", "trainer.max_epochs=2", "trainer.device=cpu", "hydra.run.dir=here")
    assert done.returncode == 1
    assert "error: TrainingError" in done.stderr
    assert json.loads((tmp_path / "here" / "result.json").read_text())["status"] == "diverged"


def test_a_sweep_leaves_one_directory_a_job(tmp_path: Path):
    done = run(tmp_path, "init=kaiming_normal,xavier_normal", "seed=0,1", "hydra.sweep.dir=sweep", *QUICK, "-m")
    assert done.returncode == 0, done.stderr
    of_the_sweep = {"multirun.yaml", "sweep.json", "summary.csv", "curves.png", "report.html"}
    assert {path.name for path in (tmp_path / "sweep").iterdir()} == {"0", "1", "2", "3"} | of_the_sweep
    for job in ("0", "1", "2", "3"):
        assert json.loads((tmp_path / "sweep" / job / "result.json").read_text())["status"] == "completed"


def test_two_runs_that_start_together_have_directories_of_their_own(tmp_path: Path):
    threads = [threading.Thread(target=run, args=(tmp_path, *QUICK)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list((tmp_path / "outputs").glob("*/*/model.safetensors"))) == 2


def test_a_project_trains_its_own_model_beside_our_groups(tmp_path: Path):
    (tmp_path / "conf" / "model").mkdir(parents=True)
    layers = "{flatten: {_target_: torch.nn.Flatten}, fc: {_target_: torch.nn.Linear, out_features: 10}}"
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(f"layers: {layers}\n")
    groups = "data: digits}, {init: zeros}, {optimizer: sgd}, {scheduler: constant}, {trainer: debug}, {model: mine"
    (tmp_path / "conf" / "own.yaml").write_text(f"defaults: [{{{groups}}}, _self_]\nseed: 0\n")
    done = run(tmp_path, "-cd", "conf", "model=mine", "init=xavier_normal", "hydra.run.dir=a", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "fc.weight" in (tmp_path / "a" / "ledger.csv").read_text()
    own = run(tmp_path, "-cd", "conf", "-cn", "own", "hydra.run.dir=b")
    assert own.returncode == 0, own.stderr
    wrong = run(tmp_path, "-cd", "conf", "-cn", "own", "optimizer.lr=-1", "hydra.run.dir=c")
    assert (wrong.returncode, (tmp_path / "c").exists()) == (2, False)


def test_globs_see_every_option_of_a_group(tmp_path: Path):
    done = run(tmp_path, "-m", "scheduler=glob(*)", "hydra.sweep.dir=sweep", *QUICK)
    assert done.returncode == 0, done.stderr
    jobs = [path for path in (tmp_path / "sweep").iterdir() if path.is_dir()]
    assert len(jobs) == len(list((ROOT / "conf" / "scheduler").glob("*.yaml")))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], "model: cnn, deep_cnn, deep_mlp"),
        (["--cfg", "job"], "_target_: modelfactory.data.digits"),
        (["--cfg", "job", "+experiment=digits_cnn"], "warmup_epochs: 1"),
        (["seed=3", "--cfg", "job", "model=cnn"], "conv1:"),
        (["--info"], "Defaults Tree"),
        (["--info", "searchpath"], "main"),
        (["--hydra-help"], "Hydra"),
        (["-sc", "install=bash"], "hydra_bash_completion"),
    ],
)
def test_hydras_own_options_work_and_leave_nothing(tmp_path: Path, arguments: list[str], expected: str):
    done = run(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
    assert left(tmp_path) == []


def test_our_configs_are_on_the_search_path_once(tmp_path: Path):
    assert run(tmp_path, "--info", "searchpath").stdout.count(str(ROOT / "conf")) == 1


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["init=nope"], ["-sc", "query=bash"]])
def test_what_trains_nothing_imports_no_torch(tmp_path: Path, arguments: list[str]):
    program = (
        "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))\n"
        "from modelfactory.cli.main import train\nsys.exit(train())"
    )
    done = run(tmp_path, *arguments, program=("-c", program), COMP_LINE="train.py init=k")
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("modelfactory pl", ["plan"]),
        ("modelfactory ", ["train", "plan", "explain", "audit", "report", "coordcheck", "eval", "predict", "list"]),
        ("modelfactory list back", ["backbone"]),
        ("modelfactory plan --j", ["--json"]),
        ("modelfactory audit --le", ["--level"]),
        ("modelfactory coordcheck --wid", ["--width-key", "--widths"]),
        ("modelfactory coordcheck --json model=deep_m", ["model=deep_mlp"]),
        ("modelfactory plan --json model=deep_m", ["model=deep_mlp"]),
        ("modelfactory plan model=cnn --against model=deep_m", ["model=deep_mlp"]),
        ("modelfactory explain head.weight model=deep_m", ["model=deep_mlp"]),
        ("modelfactory train model=deep_m", ["model=deep_mlp"]),
        ("modelfactory train optimizer.lr", ["optimizer.lr="]),
    ],
)
def test_the_shell_completes_commands_and_overrides(tmp_path: Path, line: str, expected: list[str]):
    done = command(tmp_path, "-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert done.stdout.split() == expected, done.stderr


def test_plan_prints_every_layer_and_allocates_nothing(tmp_path: Path):
    done = command(tmp_path, "plan", "model=cnn", "init=xavier_normal")
    assert done.returncode == 0, done.stderr
    assert "conv1" in done.stdout
    assert "xavier_normal" in done.stdout
    assert left(tmp_path) == []


def test_plan_of_a_wrong_config_gives_status_2(tmp_path: Path):
    done = command(tmp_path, "plan", "model=cnn", "model.layers.conv1.out_channels=-1")
    assert done.returncode == 2
    assert "model.layers.conv1.out_channels: -1" in done.stderr


def test_audit_says_what_is_wrong_by_its_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["audit", "model=mlp", "init=xavier_normal"]) == 0
    assert "clean" in capsys.readouterr().out
    wrong = ["audit", "model=mlp", "init=xavier_normal", "+init.rules.mine={match: fc1.weight, scheme: constant, val: 0.1}"]
    assert cli.main([*wrong, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert {"name", "kind", "level", "message", "fix"} == set(found["findings"][0])
    assert [finding["name"] for finding in found["findings"] if finding["kind"] == "identical_units"] == ["fc1.weight"]
    assert cli.main(["audit", "model=mlp", "optimizer.lr=-1"]) == 2
    assert cli.main(["audit", "model=mlp", "--checkpoint", "nowhere.pt"]) == 2
    assert "there is no file nowhere.pt" in capsys.readouterr().err
    assert left(tmp_path) == []


def test_help_of_audit_imports_no_torch(tmp_path: Path):
    program = (
        "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))\n"
        "from modelfactory.cli.main import main\nsys.exit(main(['audit', '--help']))"
    )
    done = run(tmp_path, program=("-c", program))
    assert done.stdout.splitlines()[-1] == "False"


def test_the_command_itself_helps_and_refuses_what_it_has_not(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--help"]) == 0
    assert "plan" in capsys.readouterr().out
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("modelfactory ")
    assert cli.main([]) == 2
    assert cli.main(["trian"]) == 2
    assert "'trian' is not a command; did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell")
@pytest.mark.parametrize("streams", ["1>&-", "1>&- 2>&- 0<&-", "1>/dev/full", "| true"])
def test_a_run_does_not_depend_on_who_reads_its_output(tmp_path: Path, streams: str):
    words = ("trainer=debug", "trainer.device=cpu", "trainer.progress=lines", "model.width=8", "hydra.run.dir=here")
    line = f'"{sys.executable}" "{ROOT / "train.py"}" {" ".join(words)}'
    shell = f"{line} {streams}; exit ${{PIPESTATUS[0]}}" if streams.startswith("|") else f"{line} {streams}"
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, stderr=subprocess.DEVNULL, timeout=300)
    assert done.returncode == 0
    assert json.loads((tmp_path / "here" / "result.json").read_text())["status"] == "completed"


def test_a_relative_source_is_that_of_the_command_where_the_run_has_its_own_folder(tmp_path: Path):
    assert run(tmp_path, "hydra.run.dir=runs/a", *QUICK).returncode == 0
    words = ("hydra.run.dir=runs/b", "hydra.job.chdir=true", "trainer.resume=runs/a", "trainer.max_epochs=2")
    done = run(tmp_path, *QUICK, *words)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "runs" / "b" / "result.json").read_text())["final"]["epoch"] == 2


def test_what_cannot_be_resumed_is_refused_before_a_folder_is_made(tmp_path: Path):
    assert run(tmp_path, "hydra.run.dir=runs/a", *QUICK).returncode == 0
    done = run(tmp_path, *QUICK, "hydra.run.dir=runs/b", "trainer.resume=runs/a", "activation=tanh", "optimizer=sgd", "seed=3")
    assert done.returncode == 2 and not (tmp_path / "runs" / "b").exists()
    for told in ("seed: 3 here, 0 in the run", "optimizer._target_: 'torch.optim.SGD' here", "activation._target_: 'torch.nn.Tanh' here"):
        assert told in done.stderr


def test_a_name_that_no_file_system_takes_is_told(tmp_path: Path):
    done = run(tmp_path, f"hydra.run.dir={'a' * 300}", *QUICK)
    assert (done.returncode, left(tmp_path)) == (2, [])
    assert "hydra.run.dir: the run directory has a name of 300 bytes" in done.stderr
