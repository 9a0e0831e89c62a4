"""An input that a model runs on, found by trying: sizes come from the model's own first layers, and a run confirms them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_META = torch.device("meta")
_SIZES = (32, 64, 224, 28, 8, 16, 96, 128, 256, 299, 384, 12, 10, 48, 6, 20, 24, 40)
_MOST = 60


def candidate_inputs(model: nn.Module) -> Iterator[Any]:
    """Inputs (on the meta device) that a model may be made for, the likeliest first.

    What the model says itself comes first (`example_input_array`, a configuration of `transformers` or timm); then shapes that
    fit its first layers, in the order of registration.

    Example:
        >>> [tuple(x.shape) for x in candidate_inputs(nn.Sequential(nn.Linear(3, 4)))][:2]
        [(2, 3), (2, 5, 3)]
    """
    yield from _declared(model)
    required = _num_required(model)
    seen: set[tuple[Any, ...]] = set()
    for shape, dtype in _by_layers(model):
        if (shape, dtype) in seen:
            continue
        seen.add((shape, dtype))
        if len(seen) > _MOST:
            return
        x = torch.empty(shape, dtype=dtype, device=_META)
        yield x if required <= 1 else (x,) * required


def _num_required(model: nn.Module) -> int:
    """How many arguments without a default `forward` takes."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(parameter.kind in kinds and parameter.default is parameter.empty for parameter in parameters)


def _declared(model: nn.Module) -> Iterator[Any]:
    example = getattr(model, "example_input_array", None)
    if isinstance(example, (Tensor, tuple)):
        yield example
    for name in ("pretrained_cfg", "default_cfg"):
        settings = getattr(model, name, None)
        size = settings.get("input_size") if isinstance(settings, Mapping) else getattr(settings, "input_size", None)
        if isinstance(size, (tuple, list)):
            yield torch.empty((2, *size), device=_META)
    main, config = getattr(model, "main_input_name", None), getattr(model, "config", None)
    if isinstance(main, str) and config is not None:
        yield from _of_transformers(main, config)


def _of_transformers(main: str, config: Any) -> Iterator[dict[str, Tensor]]:
    """Named inputs of a model of `transformers`, by what its configuration says."""
    ids = torch.zeros(2, 8, dtype=torch.long, device=_META)
    more = {"decoder_input_ids": ids} if getattr(config, "is_encoder_decoder", False) else {}
    if main == "input_ids":
        yield {"input_ids": ids, **more}
    elif main == "pixel_values":
        size = getattr(config, "image_size", 224)
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        yield {"pixel_values": torch.empty(2, getattr(config, "num_channels", 3), height, width, device=_META), **more}
    elif main == "input_features":
        bins, length = getattr(config, "num_mel_bins", 80), 2 * getattr(config, "max_source_positions", 1500)
        yield {"input_features": torch.empty(2, bins, length, device=_META), **more}
        yield {"input_features": torch.empty(2, 100, bins, device=_META), **more}
    elif main == "input_values":
        yield {"input_values": torch.empty(2, 16000, device=_META), **more}
        bins, length = getattr(config, "num_mel_bins", 128), getattr(config, "max_length", 1024)
        yield {"input_values": torch.empty(2, length, bins, device=_META), **more}


def _by_layers(model: nn.Module) -> Iterator[tuple[tuple[int, ...], torch.dtype]]:
    for module in model.modules():
        dtype = next((parameter.dtype for parameter in module._parameters.values() if parameter is not None), torch.float32)
        dtype = dtype if dtype.is_floating_point else torch.float32
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            yield (2, 6), torch.long
            yield (2,), torch.long
            yield (2, 3, 4), torch.long
        elif isinstance(module, nn.modules.conv._ConvNd):
            axes = len(module.kernel_size)
            for size in _SIZES if axes < 3 else (16, 32, 8):
                yield (2, module.in_channels, *(size,) * axes), dtype
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            yield from (((2, module.num_features, *(8,) * axes), dtype) for axes in (0, 1, 2))
        elif isinstance(module, (nn.Linear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)):
            width = getattr(module, "in_features", None) or getattr(module, "input_size", None) or getattr(module, "embed_dim", None)
            yield from _wide(int(width or 1), dtype)  # pyright: ignore[reportArgumentType]
            yield from _flat(int(width or 1), dtype)  # pyright: ignore[reportArgumentType]
        else:
            for parameter in module._parameters.values():
                if parameter is not None and not isinstance(parameter, nn.parameter.UninitializedParameter):
                    for size in dict.fromkeys(reversed(parameter.shape)):
                        yield from _wide(size, dtype)


def _wide(width: int, dtype: torch.dtype) -> Iterator[tuple[tuple[int, ...], torch.dtype]]:
    yield from (((2, *(5,) * axes, width), dtype) for axes in (0, 1, 2))


def _flat(width: int, dtype: torch.dtype) -> Iterator[tuple[tuple[int, ...], torch.dtype]]:
    """Images that a first Linear sees flat."""
    for channels in (1, 3):
        side = round((width / channels) ** 0.5)
        if side > 1 and channels * side * side == width:
            yield (2, channels, side, side), dtype
