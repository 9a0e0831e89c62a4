"""The device and the precision of a run, decided once."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from modelfactory.config.errors import ConfigError, Problem, Problems, did_you_mean

log = logging.getLogger(__name__)
DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")
_NOT_DETERMINISTIC = "does not have a deterministic implementation"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str = "auto", path: str = "trainer.device") -> torch.device:
    """The device that `name` means on this machine; `auto` is its accelerator, or the CPU where it has none.

    Raises:
        ConfigError: an unknown name, or a device that is not here; `path` is where the name was given.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    problems = Problems()
    device = check_device(name, path, problems)
    if device is None:
        raise ConfigError(problems)
    return device


def check_device(name: Any, path: str, problems: Problems) -> torch.device | None:
    """Like `choose_device`, with what is wrong added to `problems`.

    Example:
        >>> problems = Problems()
        >>> check_device("gpu", "trainer.device", problems)
        >>> print(*problems)
        trainer.device: 'gpu' is not a device; give auto, or cuda
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return _indexed(accelerator) if accelerator is not None else torch.device("cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or device.type not in DEVICES:
        hint = "; give auto, or cuda" if name == "gpu" else did_you_mean(str(name), (*DEVICES, "cuda:0"))
        problems.add(path, f"{name!r} is not a device{hint}")
        return None
    if device.type == "cpu":
        return torch.device("cpu")
    if accelerator is None or accelerator.type != device.type:
        there = "the CPU only" if accelerator is None else f"the CPU and {accelerator.type}"
        problems.add(path, f"{name!r} is not on this machine, which has {there}; give auto, or cpu")
        return None
    count = torch.accelerator.device_count()
    if device.index is not None and device.index >= count:
        problems.add(path, f"{name!r} is not on this machine, which has {count} {device.type} device(s), counted from 0")
        return None
    return _indexed(device)


def _indexed(device: torch.device) -> torch.device:
    return device if device.index is not None else torch.device(device.type, torch.accelerator.current_device_index())


def check_precision(precision: str, device: torch.device, path: str, problems: Problems) -> None:
    """Says in `problems` where this device cannot compute in `precision` (fp32, bf16 or fp16)."""
    if precision == "fp32":
        return
    if device.type == "cuda" and precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        problems.add(path, f"'bf16' is not supported by {torch.cuda.get_device_name(device)}; give fp32 or fp16")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns and turns autocast off where it does not support the pair
        with torch.autocast(device.type, PRECISIONS[precision]):
            enabled = torch.is_autocast_enabled(device.type)
        if enabled and precision == "fp16":
            enabled = torch.amp.GradScaler(device.type).is_enabled()
    if not enabled:
        problems.add(path, f"{precision!r} is not supported on {device.type} by torch {torch.__version__}; give fp32")


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The context of a forward pass in `precision`; one object serves every step, entered again each time."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, PRECISIONS[precision])


def make_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler | None:
    """The loss scaler that fp16 needs (its smallest gradients are lost below 6e-8), None for other precisions."""
    return torch.amp.GradScaler(device.type) if precision == "fp16" else None


def scaled_step(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> bool:
    """Takes a step of an optimizer, which the scaler skips where a gradient overflows; returns whether it was taken.

    Example:
        >>> weight = torch.ones(1, requires_grad=True)
        >>> scaler, optimizer = torch.amp.GradScaler("cpu"), torch.optim.SGD([weight], lr=0.5, foreach=False)
        >>> scaler.scale(weight.sum() * torch.inf).backward()
        >>> scaled_step(scaler, optimizer), weight.tolist()
        (False, [1.0])
    """
    before = scaler.get_scale()
    # A fused kernel that skips a step by itself has made its state by then: the momentum of SGD is what happened to be in memory. Without
    # this mark the scaler unscales the gradients, looks at them, and calls the kernel or does not. Seen in torch 2.14.
    optimizer._step_supports_amp_scaling = False  # pyright: ignore[reportAttributeAccessIssue]
    scaler.step(optimizer)
    scaler.update()
    return 0 < before <= scaler.get_scale()  # it backs off after a step that it skipped, and only then


def seed_device(seed: int, device: torch.device) -> None:
    """Seeds the default generators of the CPU and of `device`, and of no other device."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def random_state(device: torch.device) -> dict[str, str]:
    """The default generators of the CPU and of `device`, as texts.

    Example:
        >>> state = random_state(torch.device("cpu"))
        >>> drawn = torch.rand(1)
        >>> set_random_state(state, torch.device("cpu")), torch.equal(drawn, torch.rand(1))
        (True, True)
    """
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state(device)
    return {name: bytes(generator.tolist()).hex() for name, generator in state.items()}


def set_random_state(state: Mapping[str, str], device: torch.device) -> bool:
    """Put generators where `random_state` found them; False where it found none of this kind of device."""
    if device.type not in state:
        return False
    found = {name: torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8) for name, text in state.items()}
    torch.set_rng_state(found["cpu"])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(found[device.type], device)
    return True


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Compute to the same bits on every run and for any number of threads.

    On the CPU that takes one thread, since sums depend on how they are divided among threads.

    Raises:
        ConfigError: torch has no such computation of an operation, which is named.

    Example:
        >>> with deterministic(True):
        ...     torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
        (1, True)
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without which matrix products of CUDA are none
    enabled, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn, threads = torch.backends.cudnn, torch.get_num_threads()
    benchmark = cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    cudnn.benchmark = False  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    except RuntimeError as error:
        if not is_not_deterministic(error):
            raise
        operation = str(error).partition(_NOT_DETERMINISTIC)[0].strip()
        message = f"true, and torch {torch.__version__} has no deterministic {operation}; take another layer, another device, or give false"
        raise ConfigError([Problem("trainer.deterministic", message)]) from error
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.set_num_threads(threads)
        cudnn.benchmark = benchmark  # pyright: ignore[reportAttributeAccessIssue]


def is_not_deterministic(error: BaseException) -> bool:
    """Whether torch refuses an operation since it has no deterministic kernel of it."""
    return _NOT_DETERMINISTIC in str(error)


_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def training_context() -> Iterator[None]:
    """Have gradients and no autocast, whatever the caller set, and no other training in this process meanwhile.

    Dropout draws from the global generators, so two trainings at once would each depend on what the other draws: threads take turns.

    Example:
        >>> with torch.no_grad(), training_context():
        ...     torch.is_grad_enabled()
        True
    """
    if not _one_at_a_time.acquire(blocking=False):
        log.info("waiting for the training of another thread")
        _one_at_a_time.acquire()
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            for device_type in DEVICES[1:]:
                if torch.is_autocast_enabled(device_type):
                    stack.enter_context(torch.autocast(device_type, enabled=False))
            yield
    finally:
        _one_at_a_time.release()


@contextlib.contextmanager
def kept_random_state(device: torch.device):
    """Puts the global random state of the CPU and of `device` back at the end."""
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices=devices, device_type=device.type if devices else "cuda"):
        yield
