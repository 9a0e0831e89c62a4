"""What stands in for tensors while a model is traced."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from modelfactory.tracing.standing_in import hollow


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(()),
        torch.ones(2, 3, 4),
        torch.ones(2, 3, 4, dtype=torch.int8).transpose(0, 2),
        torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.ones(0, 3),
        torch.ones(2, 3).to_sparse(),
        torch.ones(2, 3, device="meta"),
    ],
    ids=lambda tensor: f"{list(tensor.shape)}-{tensor.dtype}-{tensor.layout}",
)
def test_a_hollow_tensor_is_what_torch_makes_on_the_meta_device(tensor: torch.Tensor):
    made, expected = hollow(tensor), torch.empty_like(tensor, device="meta")
    assert (made.device, made.dtype, made.layout, made.shape) == (expected.device, expected.dtype, expected.layout, expected.shape)
    if tensor.layout is torch.strided:
        assert made.stride() == expected.stride()


def test_a_tensor_that_is_expanded_gets_memory_of_its_own():
    made = hollow(torch.ones(3, 1).expand(3, 4))
    made += 1
    assert made.is_contiguous() or made.t().is_contiguous()


def test_a_plain_network_is_trained_without_sympy_which_takes_longer_to_import():
    code = (
        "import sys, modelfactory as mf\n"
        "mf.train(mf.compose('trainer=debug', 'trainer.device=cpu', 'trainer.progress=none'))\n"
        "assert 'sympy' not in sys.modules and 'torch._dynamo' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
