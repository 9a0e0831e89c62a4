import json
import math
import threading

import pytest
import torch
from torch import nn

import modelfactory as mf
from modelfactory.config.compose import to_plain
from modelfactory.config.errors import ConfigError, Problems
from modelfactory.data import Data, Split
from modelfactory.training.device import (
    autocast,
    check_precision,
    choose_device,
    kept_random_state,
    make_scaler,
    scaled_step,
    seed_device,
    training_context,
)
from modelfactory.training.trainer import train_model
from modelfactory.training.training_spec import training_spec

HAS_GPU = torch.accelerator.current_accelerator(check_available=True) is not None


def test_auto_is_the_accelerator_or_the_cpu():
    device = choose_device("auto")
    assert (device.type == "cpu") == (not HAS_GPU)


@pytest.mark.skipif(HAS_GPU, reason="has an accelerator")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "xpu", "mps"])
def test_a_device_that_is_not_here_is_refused_with_its_path(name):
    with pytest.raises(ConfigError, match=f"trainer.device: '{name}' is not on this machine, which has the CPU only"):
        choose_device(name)


@pytest.mark.parametrize("name", ["gpu", "cud", None, 3.5, "meta"])
def test_an_unknown_device_is_refused(name):
    with pytest.raises(ConfigError, match="is not a device"):
        choose_device(name)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_autocast_computes_in_the_precision_that_was_accepted(precision):
    device, problems = torch.device("cpu"), Problems()
    check_precision(precision, device, "trainer.precision", problems)
    if problems:
        pytest.skip(str(problems))
    with autocast(device, precision):
        out = torch.nn.Linear(4, 4)(torch.ones(1, 4))
    assert out.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert (make_scaler(device, precision) is not None) == (precision == "fp16")


def test_an_unsupported_precision_is_refused(monkeypatch):
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device_type: False)
    problems = Problems()
    check_precision("fp16", torch.device("cpu"), "trainer.precision", problems)
    assert "trainer.precision: 'fp16' is not supported on cpu" in str(*problems)


def test_random_state_is_put_back():
    before = torch.get_rng_state()
    with kept_random_state(torch.device("cpu")):
        seed_device(3, torch.device("cpu"))
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with kept_random_state(torch.device("cpu")):
        seed_device(3, torch.device("cpu"))
        assert torch.equal(torch.rand(3), first)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_random_state_of_the_gpu_is_put_back():
    device = choose_device("cuda")
    before = torch.cuda.get_rng_state(device)
    with kept_random_state(device):
        seed_device(3, device)
        torch.rand(3, device=device)
    assert torch.equal(torch.cuda.get_rng_state(device), before)


def small(seed=0):
    """A training whose numbers depend on what dropout draws."""
    words = ("trainer.device=cpu", "trainer.progress=none", "trainer.signal=none", "trainer.max_epochs=3", "model.width=8", f"seed={seed}")
    plain = to_plain(mf.compose(*words))
    layers = plain["model"]["layers"]
    plain["model"]["layers"] = {**layers, "drop": {"_target_": "torch.nn.Dropout", "p": 0.5}, "head": layers.pop("head")}
    return plain


def losses(result):
    return [row["train_loss"] for row in result.history]


@pytest.mark.parametrize(
    "mode",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16), lambda: torch.set_grad_enabled(False)],
    ids=["no_grad", "inference_mode", "autocast", "set_grad_enabled"],
)
def test_a_training_does_not_depend_on_the_modes_of_its_caller(mode):
    expected = losses(mf.train(small()))
    with mode():
        grad, autocasts = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
        assert losses(mf.train(small())) == expected
        assert (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")) == (grad, autocasts)


def test_trainings_in_two_threads_at_once_have_the_numbers_that_each_has_alone():
    expected, found = [losses(mf.train(small(seed))) for seed in range(3)], {}
    start = threading.Barrier(3)

    def work(seed):
        start.wait()
        found[seed] = losses(mf.train(small(seed)))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed] for seed in range(3)] == expected


@pytest.mark.parametrize("init", ["kaiming_normal", "lsuv"])
def test_deterministic_gives_the_same_bits_for_any_number_of_threads(tmp_path, init):
    words = ("trainer.deterministic=true", "model.width=300", "data.batch_size=512", "trainer.max_epochs=1", "trainer.limit_batches=2")
    settings = mf.compose(*words, f"init={init}", "trainer.device=cpu", "trainer.progress=none", "trainer.signal=table")
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            mf.train(settings, tmp_path / str(count))
            assert torch.get_num_threads() == count and not torch.are_deterministic_algorithms_enabled()
            assert json.loads((tmp_path / str(count) / "result.json").read_text())["threads"] == 1
            found.append([(tmp_path / str(count) / name).read_bytes() for name in ("model.safetensors", "signal.csv", "ledger.csv")])
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1] == found[2]


class Put(nn.Linear):
    def forward(self, input):
        output = super().forward(input)
        return output.put(torch.arange(3), output[0, :3])


def test_what_torch_cannot_compute_to_the_same_bits_is_refused_by_its_name():
    data = Data(Split(torch.randn(8, 4), torch.arange(8) % 3), Split(torch.randn(8, 4), torch.arange(8) % 3), "classification", 3, (4,))
    trainer = {"max_epochs": 1, "device": "cpu", "progress": "none", "deterministic": True}
    with pytest.raises(ConfigError, match="trainer.deterministic: true, and torch .* has no deterministic put_; take another layer"):
        train_model(Put(4, 3), data, training_spec(trainer=trainer))


def test_a_training_may_be_within_another():
    with training_context(), training_context():
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("fused", [True, False])
def test_a_skipped_step_leaves_weights_and_the_optimizers_state(fused):
    """The fused SGD of torch makes its momentum, of whatever is in memory, before it finds that the step is to be skipped."""
    weight = torch.ones(4, requires_grad=True)
    scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=8.0), torch.optim.SGD([weight], lr=0.5, momentum=0.9, fused=fused)
    torch.full((4,), math.nan)  # which is what the memory has then
    for factor, taken in ((math.inf, False), (2.0, True), (2.0, True)):
        weight.grad = None
        scaler.scale((weight * factor).sum()).backward()
        assert scaled_step(scaler, optimizer) is taken
        if not taken:
            assert weight.tolist() == [1.0] * 4 and not optimizer.state
    assert weight.tolist() == pytest.approx([1.0 - 0.5 * 2.0 - 0.5 * (2.0 + 0.9 * 2.0)] * 4)
    assert scaler.get_scale() == 4.0
