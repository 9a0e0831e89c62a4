"""What a `_target_` may name: nothing that trusted Python did not allow, however it is reached."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from torch import nn

import modelfactory as mf
from modelfactory.api.run import check
from modelfactory.config import target
from modelfactory.config.errors import ConfigError, Problems
from modelfactory.config.target import check_arguments, resolve, split, trusted

ROOT = Path(mf.__file__).parents[1]


def refusal(name, kind: str = "layer") -> str:
    """What is said of a name; empty when it is allowed."""
    problems = Problems()
    found = resolve(name, "model._target_", problems, kind)
    assert (found is None) == bool(problems)
    return "\n".join(map(str, problems))


@pytest.fixture(autouse=True)
def nothing_trusted(monkeypatch):
    monkeypatch.setattr(target, "_TRUSTED", set())
    monkeypatch.delenv("MODELFACTORY_TRUST", raising=False)


ALLOWED = [
    ("torch.nn.Linear", "layer"),
    ("torch.nn.modules.linear.Linear", "layer"),
    ("torchvision.models.resnet18", "layer"),
    ("torchvision.models.ResNet", "layer"),
    ("torchvision.ops.Conv2dNormActivation", "layer"),
    ("modelfactory.Residual", "layer"),
    ("torch.nn.SiLU", "activation"),
    ("torch.nn.HuberLoss", "loss"),
    ("torch.optim.AdamW", "optimizer"),
    ("torch.optim.lr_scheduler.StepLR", "scheduler"),
    ("modelfactory.data.digits", "data"),
    ("torchvision.transforms.v2.Resize", "transform"),
]


@pytest.mark.parametrize(("name", "kind"), ALLOWED)
def test_what_is_there_to_build_with_is_allowed(name, kind):
    assert refusal(name, kind) == ""


REFUSED = [
    ("os.system", "layer", "is refused: only torch.nn"),
    ("builtins.eval", "layer", "is refused: only torch.nn"),
    ("torch.load", "layer", "is refused: only torch.nn"),
    ("torch.hub.load", "layer", "is refused: only torch.nn"),
    ("torch.nn.modules.module.torch.load", "layer", "refused: its step 'torch' leaves torch.nn for the module torch"),
    ("torch.nn.init.torch.load", "scheme", "is refused: only trusted packages may be named here"),
    ("torch.nn.functional.torch", "layer", "leaves torch.nn for the module torch"),
    ("torch.nn.modules.module.functools.partial", "layer", "leaves torch.nn for the module functools"),
    ("torch.nn.modules.module.OrderedDict", "layer", "refused: it leads to collections.OrderedDict"),
    ("torch.nn.Linear.__init__", "layer", "refused at '__init__': only public names of modules are allowed"),
    ("torch.nn.Linear.load_state_dict", "layer", "refused at 'load_state_dict'"),
    ("torch.nn.__builtins__.eval", "layer", "refused at '__builtins__'"),
    ("torch.nn._reduction", "layer", "refused at '_reduction'"),
    ("torch.nn.functional.relu", "layer", "is not a torch.nn module"),
    ("torch.nn.Parameter", "layer", "is not a torch.nn module"),
    ("torch.nn.Module", "layer", "is what every module is made from"),
    ("torch.nn.LazyLinear", "layer", "sizes are inferred here"),
    ("torch.nn.CrossEntropyLos", "loss", "did you mean 'torch.nn.CrossEntropyLoss'"),
    ("torch.nn.ReLU", "loss", "is not a torch.nn loss module"),
    ("torch.nn.ReLU", "optimizer", "is refused: only torch.optim"),
    ("torch.optim.Optimizer", "optimizer", "is what every optimizer is made from"),
    ("torch.optim.lr_scheduler.StepLR", "optimizer", "is not a torch.optim optimizer"),
    ("torch.optim.sgd.torch.load", "optimizer", "leaves torch.optim for the module torch"),
    ("torchvision.models.get_model", "layer", "is not a torchvision.models module"),
    ("torchvision.models.resnet.partial", "layer", "is refused: it leads to functools.partial"),
    ("torchvision.datasets.ImageFolder", "transform", "is refused"),
    ("modelfactory.config.target.trust", "layer", "is not a modelfactory module"),
    ("modelfactory.config.target.importlib.import_module", "layer", "leaves modelfactory for the module importlib"),
    ("modelfactory.training.checkpoint.os.remove", "data", "is refused: only modelfactory.data"),
    ("modelfactory.data.digits.Path.unlink", "data", "refused at 'Path'"),
    ("Linear", "layer", "give the full name; did you mean 'torch.nn.Linear'"),
    ("nn.Linear", "layer", "give the full name; did you mean 'torch.nn.Linear'"),
    ("my_pkg.Net", "layer", 'modelfactory.trust("my_pkg") in Python or set MODELFACTORY_TRUST=my_pkg'),
    ("torch.ops.load_library", "layer", "is refused: only torch.nn"),
    ("torch.nn.utils.parametrize.importlib.import_module", "layer", "is not a torch.nn module"),
    ("torchvision.models._api.get_model", "layer", "refused at '_api'"),
    ("torchvision.datasets.utils.download_url", "data", "is refused: only modelfactory.data"),
    ("torch..nn.Linear", "layer", "is not the dotted name"),
    ("torch.nn", "layer", "is refused"),
    ("torch.nn.Linear; import os", "layer", "is not the dotted name of a module, like torch.nn.Linear"),
    ("", "layer", "is not the dotted name"),
    (None, "layer", "is not the dotted name"),
    (["torch.nn.Linear"], "optimizer", "is not the dotted name of an optimizer, like torch.optim.AdamW"),
]


@pytest.mark.parametrize(("name", "kind", "why"), REFUSED, ids=str)
def test_all_else_is_refused_with_why(name, kind, why):
    said = refusal(name, kind)
    assert said.startswith(f"model._target_: {name!r} ") and why in said


def test_no_refusal_suggests_to_trust_the_standard_library_or_torch():
    for name in ("os.system", "builtins.eval", "torch.load", "numpy.load"):
        assert "trust(" not in refusal(name)


def test_nothing_is_imported_for_a_refused_name():
    code = (
        "import sys; from modelfactory.config.target import resolve; from modelfactory.config.errors import Problems;"
        "resolve('antigravity.x', 'p', Problems()); resolve('os.system', 'p', Problems());"
        "print('antigravity' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.fixture
def my_pkg(tmp_path, monkeypatch):
    """A package with modules, and names in it that lead elsewhere."""
    package = tmp_path / "my_target_pkg"
    (package / "nets").mkdir(parents=True)
    (package / "__init__.py").write_text(
        textwrap.dedent(
            """
            import functools, os, subprocess, torch
            from os import system
            from pathlib import Path
            from torch import load
            from torch.nn import Linear
            run = subprocess.Popen
            call = functools.partial(os.system, "true")
            evaluate = eval
            class Holder:
                reach = os
            holder = Holder()
            def scheme_(tensor, width: int = 2):
                return tensor.fill_(width)
            def _hidden_(tensor):
                return tensor
            """
        )
    )
    (package / "nets" / "__init__.py").write_text("")
    (package / "nets" / "small.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self, width: int = 3):\n        super().__init__()\n"
        "        self.fc = nn.Linear(3, width)\n    def forward(self, x):\n        return self.fc(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_target_pkg"
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_target_pkg"]:
        del sys.modules[name]


def test_nothing_of_a_package_is_imported_before_it_is_trusted(my_pkg):
    assert "is refused" in refusal("my_target_pkg.nets.small.Net") and my_pkg not in sys.modules


def test_what_is_inside_a_trusted_package_is_allowed_with_its_submodules(my_pkg, monkeypatch):
    monkeypatch.setenv("MODELFACTORY_TRUST", f"another, {my_pkg} ,")
    assert set(trusted()) >= {"another", my_pkg} and "" not in trusted()
    assert refusal("my_target_pkg.nets.small.Net") == "" and refusal("my_target_pkg.scheme_", "scheme") == ""
    problems = Problems()
    assert resolve("my_target_pkg.Linear", "x", problems) is nn.Linear and not problems
    assert "did you mean 'my_target_pkg.nets.small.Net'" in refusal("my_target_pkg.nets.small.Nett")
    assert "is refused" in refusal("my_target_pkg_evil.Net")


@pytest.mark.parametrize(
    "name",
    ["os.system", "system", "run", "call", "evaluate", "load", "torch.load", "subprocess.run", "Path", "holder.reach.system", "_hidden_"],
)
@pytest.mark.parametrize("kind", ["layer", "scheme", "data"])
def test_a_trusted_package_is_no_way_to_elsewhere(my_pkg, monkeypatch, name, kind):
    monkeypatch.setenv("MODELFACTORY_TRUST", my_pkg)
    assert "refused" in refusal(f"{my_pkg}.{name}", kind)


def test_trust_is_for_one_process_and_names_packages_only():
    mf.trust("pkg_a", "pkg_b.part")
    assert {"pkg_a", "pkg_b.part"} <= set(trusted())
    for wrong in ("pkg-a", "", "a b", None, "a..b"):
        with pytest.raises(ValueError, match="is not the name of a package"):
            mf.trust(wrong)
    done = subprocess.run(
        [sys.executable, "-c", "from modelfactory.config.target import trusted; print(trusted())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "pkg_a" not in done.stdout


@pytest.mark.parametrize("key", ["trust", "MODELFACTORY_TRUST", "trusted"])
def test_a_config_adds_no_trust(my_pkg, key):
    layers = {"net": {"_target_": f"{my_pkg}.nets.small.Net"}}
    config = {"model": {"layers": layers}, "data": {"input_shape": [3]}}
    with pytest.raises(ConfigError, match="is refused"):
        mf.build({**config, key: [my_pkg]})  # which leaves the key alone: it may be another project's
    with pytest.raises(ConfigError, match=f"{key}: not a key of the config"):
        check({**config, key: [my_pkg]})
    with pytest.raises(ConfigError, match="is refused"):
        mf.build({**config, "model": {"layers": layers, key: my_pkg}})
    assert my_pkg not in trusted() and my_pkg not in sys.modules


def test_a_config_cannot_set_the_environment_of_its_own_run(my_pkg, tmp_path):
    code = "import sys; from modelfactory.cli.main import main; sys.exit(main())"
    overrides = [
        "train",
        f"+hydra.job.env_set={{MODELFACTORY_TRUST: {my_pkg}}}",
        f"model.layers.fc1={{_target_: {my_pkg}.nets.small.Net}}",
        f"hydra.run.dir={tmp_path}/run",
    ]
    done = subprocess.run([sys.executable, "-c", code, *overrides], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "Traceback" not in done.stderr and not (tmp_path / "run").exists()
    assert "hydra.job.env_set.MODELFACTORY_TRUST: is refused" in done.stderr


def test_nested_arguments_are_resolved_as_safely():
    config = {"_target_": "torch.nn.TransformerEncoder", "num_layers": 1, "encoder_layer": {"_target_": "os.system", "command": "true"}}
    with pytest.raises(ConfigError, match=r"model.layers.e.encoder_layer._target_: 'os.system' is refused"):
        mf.build({"model": {"layers": {"e": config}}})


def test_split_takes_the_target_out():
    assert split({"a": 1, "_target_": "x", "b": 2}) == ("x", {"a": 1, "b": 2}) and split({}) == (None, {})


ARGUMENTS = [
    (nn.Linear, {"in_features": 2, "out_feature": 3}, "l.out_feature: not an argument of Linear; did you mean 'out_features'?"),
    (nn.Linear, {"in_features": 2}, "l.out_features: missing; Linear needs it"),
    (nn.Linear, {"in_features": 2, "out_features": "3"}, "l.out_features: '3' is a text; give a whole number"),
    (nn.Linear, {"in_features": 2, "out_features": 3.0}, "l.out_features: 3.0 is a number; give a whole number"),
    (nn.Linear, {"in_features": 2, "out_features": True}, "l.out_features: True is true or false; give a whole number"),
    (nn.Linear, {"in_features": 2, "out_features": 0}, "l.out_features: 0 is too small; give a whole number >= 1"),
    (nn.Linear, {"in_features": 2, "out_features": 3, "bias": "no"}, "l.bias: 'no' is a text; give true or false"),
    (nn.Linear, {"in_features": 2, "out_features": 3, "device": "cuda"}, "l.device: 'cuda' is refused"),
    (nn.Linear, {"in_features": 2, "out_features": 3, "_args_": [1]}, "l._args_: not a key here"),
    (nn.Conv2d, {"in_channels": 1, "out_channels": 2, "kernel_size": [3, -1]}, "l.kernel_size: (3, -1) is too small"),
    (nn.Dropout, {"p": float("nan")}, "l.p: nan is not finite"),
    (nn.LSTM, {"hidden_size": 3}, "l.input_size: missing; LSTM needs it"),
    (nn.LSTM, {"input_size": 3, "hidden_sise": 3}, "l.hidden_sise: not an argument of LSTM; did you mean 'hidden_size'?"),
    (nn.ReLU, {"inplace": 1}, "l.inplace: 1 is a whole number; give true or false"),
    (nn.Identity, {"nonsense": 1}, ""),
]


@pytest.mark.parametrize(("layer", "arguments", "said"), ARGUMENTS, ids=lambda value: str(value)[:30])
def test_arguments_are_checked_against_the_signature(layer, arguments, said):
    problems = Problems()
    checked = check_arguments(layer, arguments, "l", problems)
    if said:
        assert checked is None and any(str(problem).startswith(said) for problem in problems), [*map(str, problems)]
    else:
        assert checked == arguments and not problems


def test_arguments_come_in_the_types_that_torch_takes():
    problems = Problems()
    checked = check_arguments(nn.Conv2d, {"in_channels": 1, "out_channels": 2, "kernel_size": [3, 1], "padding": "same"}, "l", problems)
    assert checked == {"in_channels": 1, "out_channels": 2, "kernel_size": (3, 1), "padding": "same"}
    leaky = check_arguments(nn.LeakyReLU, {"negative_slope": 1}, "l", problems)
    assert leaky is not None and isinstance(leaky["negative_slope"], float)
    assert check_arguments(nn.Linear, {"out_features": 3}, "l", problems, inferred={"in_features"}) == {"out_features": 3}
    assert not problems and nn.Conv2d(**checked).weight.shape == (2, 1, 3, 1)
