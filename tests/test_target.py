"""What a config may name, and what it may not."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from modelfactory import target
from modelfactory.errors import Problems
from modelfactory.target import check_arguments, resolve, trust, trusted

ALLOWED = [
    ("torch.nn.Linear", "layer", nn.Linear),
    ("torch.nn.modules.linear.Linear", "layer", nn.Linear),
    ("torch.optim.AdamW", "optimizer", torch.optim.AdamW),
    ("torch.optim.lr_scheduler.StepLR", "scheduler", torch.optim.lr_scheduler.StepLR),
    ("torch.nn.MSELoss", "loss", nn.MSELoss),
]
REFUSED = [
    ("os.system", "layer"),
    ("builtins.eval", "layer"),
    ("subprocess.Popen", "data"),
    ("torch.load", "layer"),
    ("torch.hub.load", "layer"),
    ("torch.ops.load_library", "layer"),
    ("torch.nn.modules.module.torch.load", "layer"),
    ("torch.nn.functional.torch.hub.load", "layer"),
    ("torch.nn.functional.relu", "layer"),
    ("torch.nn.Module", "layer"),
    ("torch.nn.Module.load_state_dict", "layer"),
    ("torch.nn.LazyLinear", "layer"),
    ("torch.nn.utils.parametrize.importlib.import_module", "layer"),
    ("torch.optim.optimizer.Optimizer", "optimizer"),
    ("torch.optim.Optimizer.add_param_group", "optimizer"),
    ("torch.nn.Linear", "optimizer"),
    ("torchvision.datasets.utils.download_url", "data"),
    ("torchvision.models.get_model", "layer"),
    ("torchvision.models._api.get_model", "layer"),
    ("modelfactory.config.compose", "layer"),
    ("modelfactory.target.trust", "layer"),
    ("torch.nn.__dict__", "layer"),
    ("torch..nn.Linear", "layer"),
    ("", "layer"),
    (None, "layer"),
    (["torch.nn.Linear"], "layer"),
]


@pytest.fixture(autouse=True)
def nothing_trusted(monkeypatch):
    monkeypatch.setattr(target, "_TRUSTED", set())
    monkeypatch.delenv("MODELFACTORY_TRUST", raising=False)


@pytest.mark.parametrize(("name", "kind", "found"), ALLOWED)
def test_what_trusted_python_allowed_resolves(name, kind, found):
    problems = Problems()
    assert resolve(name, "here", problems, kind) is found and not problems


@pytest.mark.parametrize(("name", "kind"), REFUSED)
def test_everything_else_is_refused_with_its_path(name, kind):
    problems = Problems()
    assert resolve(name, "model._target_", problems, kind) is None
    (problem,) = problems
    assert problem.path == "model._target_" and repr(name) in problem.message


def test_no_refusal_suggests_to_trust_the_standard_library_or_torch():
    for name in ("os.system", "builtins.eval", "torch.load"):
        problems = Problems()
        resolve(name, "x", problems)
        assert "trust" not in str(next(iter(problems)))


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "my_pkg").mkdir()
    (tmp_path / "my_pkg" / "__init__.py").write_text("import os\nfrom os import system\nfrom torch.nn import Linear\n")
    (tmp_path / "my_pkg" / "nets.py").write_text("from torch import nn\n\nclass Net(nn.Linear):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "my_pkg"]:
        del sys.modules[name]


@pytest.mark.parametrize("how", ["python", "environment"])
def test_a_trusted_package_is_allowed_and_nothing_that_it_leads_to(package, monkeypatch, how):
    problems = Problems()
    assert resolve("my_pkg.nets.Net", "x", problems) is None and "my_pkg" not in sys.modules
    if how == "python":
        trust("my_pkg")
    else:
        monkeypatch.setenv("MODELFACTORY_TRUST", "other, my_pkg")
    assert "my_pkg" in trusted()
    problems = Problems()
    found = resolve("my_pkg.nets.Net", "x", problems)
    assert found is not None and found.__name__ == "Net" and resolve("my_pkg.Linear", "x", problems) is nn.Linear and not problems
    for name in ("my_pkg.os.system", "my_pkg.system", "my_pkg.nets.nn.functional.torch.load"):
        assert resolve(name, "x", problems, "data") is None
    assert len(problems) == 3


def test_only_names_of_packages_can_be_trusted():
    with pytest.raises(ValueError, match="not the name of a package"):
        trust("my pkg; import os")


def test_nothing_is_imported_for_a_refused_name():
    code = (
        "import sys; from modelfactory.target import resolve; from modelfactory.errors import Problems;"
        "resolve('antigravity.x', 'p', Problems()); resolve('os.system', 'p', Problems());"
        "print('antigravity' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


ARGUMENTS = [
    (nn.Linear, {"in_features": 2, "out_features": 3}, None),
    (nn.Linear, {"in_features": 2}, "l.out_features: missing; Linear needs it"),
    (nn.Linear, {"in_features": 2, "out_feature": 3}, "l.out_feature: not an argument of Linear; did you mean 'out_features'?"),
    (nn.Linear, {"in_features": "2", "out_features": 3}, "l.in_features: '2' is a text; give a whole number"),
    (nn.Linear, {"in_features": 2, "out_features": 0}, "l.out_features: 0 is too small; give a whole number >= 1"),
    (nn.Linear, {"in_features": 2, "out_features": 3, "bias": 1}, "l.bias: 1 is a whole number; give true or false"),
    (nn.Linear, {"in_features": 2, "out_features": 3, "device": "cuda"}, "l.device: 'cuda' is refused"),
    (nn.Dropout, {"p": float("nan")}, "l.p: nan is not finite"),
    (nn.Conv2d, {"in_channels": 1, "out_channels": 2, "kernel_size": [3, -3]}, r"l.kernel_size: .* is too small"),
]


@pytest.mark.parametrize(("layer", "arguments", "message"), ARGUMENTS, ids=str)
def test_arguments_are_checked_against_the_signature(layer, arguments, message):
    problems = Problems()
    checked = check_arguments(layer, arguments, "l", problems)
    if message is None:
        assert checked == arguments and not problems
    else:
        assert checked is None
        assert any(__import__("re").match(message, str(problem)) for problem in problems), list(map(str, problems))
