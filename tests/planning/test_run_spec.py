"""A config is read once: whoever comes after takes the specs."""

import dataclasses
import sys
from collections import Counter

import pytest

import modelfactory as mf
from modelfactory.config.compose import to_plain
from modelfactory.config.errors import Problems
from modelfactory.config.schema import check_value
from modelfactory.planning.run_spec import read_run

QUIET = ("trainer=debug", "trainer.device=cpu", "trainer.progress=none")
FC = {"_target_": "torch.nn.Linear", "out_features": 2}
DIGITS = {"_target_": "modelfactory.data.digits", "input_shape": [1, 8, 8]}


def test_a_training_reads_each_value_of_its_config_once(tmp_path):
    read, groups = Counter(), Counter()

    def watch(frame, event, arg):
        if event == "call" and frame.f_code is check_value.__code__:
            read[frame.f_locals["path"]] += 1
        elif event == "call" and frame.f_code.co_name in READERS:
            groups[frame.f_code.co_name] += 1

    cfg = mf.compose(*QUIET)
    sys.setprofile(watch)
    try:
        mf.train(cfg, run_dir=tmp_path / "run")
    finally:
        sys.setprofile(None)
    every = {"seed", "data", "model", "init", "freeze", "optimizer", "scheduler", "trainer", "sweep"}
    assert {path.partition(".")[0] for path in read} >= every
    assert [path for path, count in read.items() if count > 1] == []
    assert groups == dict.fromkeys(READERS, 1)


READERS = (
    *("read_data", "read_backbone", "read_activation", "read_model", "read_init", "read_freeze"),
    *("read_optimizer", "read_grouping", "read_scheduler", "check_trainer", "read_loss", "check_sweep"),
)


def spec_of(**groups):
    problems = Problems()
    spec = read_run({"model": {"layers": {"fc": FC}}, "data": DIGITS, **groups}, problems)
    return spec, [str(problem) for problem in problems]


def test_what_is_read_is_one_frozen_tree():
    problems = Problems()
    spec = read_run(to_plain(mf.compose(*QUIET)), problems)
    assert spec is not None and not problems
    assert spec.training.trainer.max_epochs == 1 and spec.training.optimizer.arguments["lr"] == 1e-3 and spec.data.keys.batch_size == 64
    for part in (spec, spec.model, spec.data, spec.data.keys, spec.training, spec.training.trainer, spec.sweep):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, dataclasses.fields(part)[0].name, None)


def test_all_that_is_wrong_is_told_at_once_also_where_one_group_depends_on_another():
    scheduler = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 1, "warmup_epochs": 7}
    spec, told = spec_of(
        seed=-1,
        trainer={"max_epochs": 5, "device": "gpu"},
        scheduler=scheduler,
        optimizer={"_target_": "torch.optim.SGD", "lr": 0.1, "momentom": 0.9},
    )
    assert spec is None and told == [
        "seed: -1 is too small; give a whole number >= 0",
        "optimizer.momentom: not an argument of SGD; did you mean 'momentum'?",
        "scheduler.warmup_epochs: 7 is not less than the 5 epochs of the training; give fewer, or 0",
        "trainer.device: 'gpu' is not a device; give auto, or cuda",
    ]


def test_what_only_the_model_tells_is_told_beside_a_scheduler_that_is_wrong():
    groups = {"head": {"match": "hed.*"}}
    spec, told = spec_of(
        optimizer={"_target_": "torch.optim.SGD", "lr": 0.1, "groups": groups}, scheduler={"_target_": None, "interval": "minute"}
    )
    assert spec is None and [problem.partition(":")[0] for problem in told] == ["scheduler.interval", "optimizer.groups.head"]


def test_a_wrong_backbone_is_told_once_and_not_by_the_data_that_take_its_preprocessing():
    data = {"_target_": "modelfactory.data.image_folder", "root": "nowhere", "transforms": "backbone"}
    _, told = spec_of(data=data, backbone={"nam": "resnet18"})
    assert [problem for problem in told if "backbone" in problem] == ["backbone.nam: not a key of backbone; did you mean 'name'?"]
