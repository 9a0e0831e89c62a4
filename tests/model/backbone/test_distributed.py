"""A model with a pretrained backbone is plain to torch's own ways of training on several devices."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch.distributed


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_a_step_is_that_of_one_process_and_moves_the_head_alone(way, tmp_path):
    """Under the names of the config, and the frozen backbone with its statistics bit for bit as it was."""
    command = [sys.executable, "-m", "tests.model.backbone.distributing", way, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["head.bias", "head.weight", "alike"]
