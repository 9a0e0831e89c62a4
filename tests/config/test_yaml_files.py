"""YAML files that cannot be read: each says where, what and, where it can, what would do, and ends with status 2."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import modelfactory as mf
from modelfactory.cli.main import main as cli
from modelfactory.config.errors import ConfigError
from modelfactory.config.yaml_files import MAX_CONFIGS, MAX_REPEATED, load_yaml

HEAD = "defaults: [config, _self_]\n"
BOMB = "a: &a [z, z, z, z, z, z, z, z, z, z]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 10)}]}}\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
# what is in own.yaml, and what is said of it (after its path)
FILES = {
    "a list without its end": (HEAD + "notes: [1, 2\n", r", line 2: .*expected ',' or '\]'.* in line 3"),
    "a text without its end": (HEAD + "notes: 'abc\n", r", line 2: .*quoted scalar"),
    "a tab": (HEAD + "trainer:\n\tmax_epochs: 1\n", r", line 3: .*indent with spaces, not tabs"),
    "a key twice": (HEAD + "trainer:\n  max_epochs: 1\n  max_epochs: 2\n", ", line 4: max_epochs is given twice, first in line 3"),
    "a number as a name twice": ("model:\n  layers:\n    0: {a: 1}\n    0: {a: 2}\n", ", line 4: 0 is given twice, first in line 3"),
    "a tag": (HEAD + "notes: !own 1\n", ", line 2: .*'!own'"),
    "a program": (HEAD + "notes: !!python/object/apply:os.system [ls]\n", ", line 2: .*os.system"),
    "an alias of nothing": (HEAD + "notes: *nothing\n", ", line 2: .*undefined alias"),
    "an alias of itself": (HEAD + "notes: &a [*a]\n", r", line 2: holds an alias \(\*name\) of itself"),
    "two documents": ("seed: 1\n---\nseed: 2\n", ", line 1: expected a single document.* in line 2"),
    "a control character": (HEAD + "notes: \x01\n", ": unacceptable character"),
    "a key that is null": (HEAD + "null: 1\n", ", line 2: the key 'null' is read as null, which is no key; put it in quotes"),
    "a key that is a list": (HEAD + "? [1]\n: 2\n", ", line 1: .*unhashable key"),
    "a set": (HEAD + "data:\n  classes: !!set {a, b}\n", ", line 3: data.classes: .*'set'"),
    "an interpolation without its end": (HEAD + "notes: ${seed\n", ", line 2: notes: "),
    "a number of 5000 digits": (HEAD + f"notes: {'9' * 5000}\n", ": .*5000 digits"),
    "lists without end": (HEAD + f"notes: {'[' * 3000}{']' * 3000}\n", ".*(is nested too deeply|nesting depth)"),
    "nothing": ("", ": is empty; a config has a defaults list"),
    "a comment": ("# to be written\n", ": is empty; a config has a defaults list"),
    "a list": ("- seed\n- 1\n", ", line 1: holds a list; a config is a mapping"),
    "a text": ("seed\n", ", line 1: holds 'seed'; a config is a mapping"),
    "aliases": (HEAD + BOMB, rf", line \d+: aliases \(\*name\) repeat more than {MAX_REPEATED:,} values"),
    "merges": (HEAD + MERGES, rf", line \d+: aliases \(\*name\) repeat more than {MAX_REPEATED:,} values"),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_cannot_be_read_is_told_with_its_line(tmp_path: Path, what: str):
    text, message = FILES[what]
    (tmp_path / "own.yaml").write_text(text)
    began = time.process_time()
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/own\.yaml{message}"):
        mf.compose(config_dir=tmp_path, config_name="own")
    assert time.process_time() - began < 20  # the values that its aliases would make are more than any memory holds


def test_a_file_that_is_no_text_is_told(tmp_path: Path):
    (tmp_path / "own.yaml").write_bytes(b"seed: \xff\n")
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/own\.yaml: is not UTF-8 text: invalid start byte at byte 6"):
        mf.compose(config_dir=tmp_path, config_name="own")


def test_a_folder_in_place_of_a_file_is_told(tmp_path: Path):
    (tmp_path / "own.yaml").mkdir()
    with pytest.raises(ConfigError, match=f"there is no config 'own' in .*{tmp_path}"):
        mf.compose(config_dir=tmp_path, config_name="own")


def test_a_file_that_may_not_be_opened_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "own.yaml"
    file.write_text("seed: 1\n")

    def refused(path: str, *args: object, **kwargs: object):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("hydra._internal.core_plugins.file_config_source.open", refused, raising=False)
    with pytest.raises(ConfigError, match=rf"^{file}: cannot be read: Permission denied"):
        mf.compose(config_dir=tmp_path, config_name="own")


CIRCLES = {
    "itself": {"own": "defaults: [own, _self_]\n"},
    "another that names it": {"own": "defaults: [two]\n", "two": "defaults: [three]\n", "three": "defaults: [{model: cnn}, two]\n"},
    "a group": {"own": "defaults: [{model: a}]\n", "model/a": "defaults: [b]\n", "model/b": "defaults: [a]\n"},
}


@pytest.mark.parametrize(
    ("what", "circle"),
    [("itself", "own -> own"), ("another that names it", "(two -> three -> two|three -> two -> three)"), ("a group", "model/[ab] -> .*")],
)
def test_defaults_lists_that_lead_in_a_circle_are_told(tmp_path: Path, what: str, circle: str):
    for name, text in CIRCLES[what].items():
        (tmp_path / f"{name}.yaml").parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"^defaults: the defaults lists lead in a circle: {circle}$"):
        mf.compose(config_dir=tmp_path, config_name="own")


def test_defaults_lists_that_multiply_each_other_end(tmp_path: Path):
    for place in range(8):
        (tmp_path / f"d{place}.yaml").write_text(f"defaults: [{', '.join([f'd{place + 1}'] * 8)}]\n")
    (tmp_path / "d8.yaml").write_text("seed: 1\n")
    began = time.process_time()
    with pytest.raises(ConfigError, match=f"^defaults: the defaults lists name more than {MAX_CONFIGS:,} configs"):
        mf.compose(config_dir=tmp_path, config_name="d0")
    assert time.process_time() - began < 20


DEFAULTS = {
    "{model: cnn}": "must be a list",
    "[{1: cnn}]": "neither the name of a config nor {group: name}",
    "[3]": "Unsupported type in defaults : int",
    "[{model: cnn, init: zeros}]": "Too many keys in default item",
    "[nowhere]": "'nowhere' is named, and there is no such config in .*conf",
}


@pytest.mark.parametrize("defaults", DEFAULTS)
def test_a_defaults_list_that_is_none_is_told_with_its_config(tmp_path: Path, defaults: str):
    (tmp_path / "own.yaml").write_text(f"defaults: {defaults}\n")
    with pytest.raises(ConfigError, match=rf"^(own\.defaults: |.*'own').*{DEFAULTS[defaults]}"):
        mf.compose(config_dir=tmp_path, config_name="own")


def test_a_file_of_a_group_is_told_too(tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("layers: {fc: [}\n")
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/model/mine\.yaml, line 1: "):
        mf.compose("model=mine", config_dir=tmp_path)


def test_an_empty_file_of_a_group_is_an_empty_group(tmp_path: Path):
    (tmp_path / "freeze").mkdir()
    (tmp_path / "freeze" / "nothing.yaml").write_text("")
    assert "rules" not in (mf.compose("freeze=nothing", config_dir=tmp_path).get("freeze") or {})


@pytest.mark.parametrize("command", [["train", "--cfg", "job"], ["train", "-m", "seed=0,1"], ["plan"]], ids=["train", "sweep", "plan"])
@pytest.mark.parametrize("what", ["a list without its end", "a key twice", "aliases"])
def test_the_commands_end_with_status_two(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], what: str):
    (tmp_path / "own.yaml").write_text(FILES[what][0])
    status = cli([command[0], "-cd", str(tmp_path), "-cn", "own", *command[1:]])
    out, err = capsys.readouterr()
    assert (status, str(tmp_path / "own.yaml, line ") in err, "Traceback" in out + err) == (2, True, False)


def test_the_config_of_a_pretraining_is_told_too(tmp_path: Path):
    (tmp_path / "own.yaml").write_text(HEAD)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("layers: [\n")
    weights = {"train": ["model=mine"], "config_dir": str(tmp_path)}
    config = {"backbone": {"name": "resnet18", "weights": weights}, "model": {"layers": {"id": {"_target_": "torch.nn.Identity"}}}}
    with pytest.raises(ConfigError, match=rf"^backbone\.weights\.train: {tmp_path}/model/mine\.yaml, line 2: "):
        mf.plan(config)


def test_names_are_texts_as_they_are_written_and_the_keys_of_arguments_are_as_yaml_reads_them():
    text = (
        "layers:\n  010: {}\n  off: {layers: {1e3: {}, ~: {}}}\n  own: {_target_: my.Own, sizes: {0: 1, layers: {on: 2}}}\n"
        "rules: {yes: {}}\ntrainer: {off: 1}\n"
    )
    assert OmegaConf.to_container(load_yaml(io.StringIO(text))) == {
        "layers": {
            "010": {},
            "off": {"layers": {"1e3": {}, "~": {}}},
            "own": {"_target_": "my.Own", "sizes": {0: 1, "layers": {True: 2}}},
        },
        "rules": {"yes": {}},
        "trainer": {False: 1},
    }


def test_aliases_that_repeat_what_a_person_would_are_read():
    anchors = "fc: &fc {_target_: torch.nn.Linear, out_features: 4}\n"
    text = anchors + "layers: {" + ", ".join(f"fc{number}: *fc" for number in range(1000)) + "}\n"
    loaded = load_yaml(io.StringIO(text))
    assert len(loaded.layers) == 1000 and loaded.layers.fc7 == {"_target_": "torch.nn.Linear", "out_features": 4}


def test_a_layer_named_by_a_number_is_overridden_and_referred_to(tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "numbered.yaml").write_text(
        "layers:\n  0: {_target_: torch.nn.Flatten}\n  2: {_target_: torch.nn.Linear, out_features: 16}\n"
        "  off: {_target_: torch.nn.Linear, out_features: '${model.layers.2.out_features}'}\n"
    )
    model = mf.build(mf.compose("model=numbered", "model.layers.2.out_features=5", config_dir=tmp_path))
    assert [tuple(tensor.shape) for tensor in model.state_dict().values()] == [(5, 64), (5,), (5, 5), (5,)]
    assert list(model.state_dict()) == ["2.weight", "2.bias", "off.weight", "off.bias"]
