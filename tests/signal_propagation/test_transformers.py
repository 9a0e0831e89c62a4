"""Models of `transformers`, small and random: a look at each gives a table, without a fatal verdict; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import modelfactory as mf
from modelfactory.signal_propagation.table import SignalTable
from modelfactory.signal_propagation.verdict import FATAL

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

V = 60
OWN = {"use_cache": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BODY = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2}
LLAMA = {**BODY, **OWN, "num_key_value_heads": 2, "vocab_size": V, "max_position_embeddings": 64}
MOE = {**LLAMA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
GPT = {"n_embd": 48, "n_layer": 2, "n_head": 4, "vocab_size": V, "n_positions": 32, "use_cache": False}
PAIR = {
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "vocab_size": V,
    **OWN,
}
SOUND = {**BODY, "vocab_size": V, "conv_dim": [16, 16], "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_feat_extract_layers": 2}


def ids() -> torch.Tensor:
    return torch.randint(3, V, (4, 12))


def images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32)


LANGUAGE = {
    "GPT2LMHeadModel": ("GPT2Config", GPT),
    "GPTJForCausalLM": ("GPTJConfig", {**GPT, "rotary_dim": 8}),
    "GPTNeoXForCausalLM": ("GPTNeoXConfig", LLAMA),
    "GPTNeoForCausalLM": (
        "GPTNeoConfig",
        {
            "hidden_size": 48,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "vocab_size": V,
            "use_cache": False,
        },
    ),
    "OPTForCausalLM": (
        "OPTConfig",
        {
            "hidden_size": 48,
            "ffn_dim": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": V,
            "word_embed_proj_dim": 48,
            "use_cache": False,
        },
    ),
    "BloomForCausalLM": ("BloomConfig", {"hidden_size": 48, "n_layer": 2, "n_head": 4, "vocab_size": V, "use_cache": False}),
    "LlamaForCausalLM": ("LlamaConfig", LLAMA),
    "MistralForCausalLM": ("MistralConfig", {**LLAMA, "sliding_window": 8}),
    "Qwen2ForCausalLM": ("Qwen2Config", LLAMA),
    "Qwen3ForCausalLM": ("Qwen3Config", {**LLAMA, "head_dim": 12}),
    "GemmaForCausalLM": ("GemmaConfig", {**LLAMA, "head_dim": 12}),
    "Gemma2ForCausalLM": ("Gemma2Config", {**LLAMA, "head_dim": 12}),
    "Gemma3ForCausalLM": ("Gemma3TextConfig", {**LLAMA, "head_dim": 12}),
    "Olmo2ForCausalLM": ("Olmo2Config", LLAMA),
    "PhiForCausalLM": ("PhiConfig", LLAMA),
    "Phi3ForCausalLM": ("Phi3Config", LLAMA),
    "FalconForCausalLM": (
        "FalconConfig",
        {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": V, "use_cache": False},
    ),
    "CohereForCausalLM": ("CohereConfig", LLAMA),
    "Starcoder2ForCausalLM": ("Starcoder2Config", LLAMA),
    "GraniteForCausalLM": ("GraniteConfig", LLAMA),
    "MixtralForCausalLM": ("MixtralConfig", {**LLAMA, "num_local_experts": 4}),
    "Qwen3MoeForCausalLM": ("Qwen3MoeConfig", {**MOE, "head_dim": 12}),
    "Qwen2MoeForCausalLM": ("Qwen2MoeConfig", {**MOE, "shared_expert_intermediate_size": 32}),
    "MambaForCausalLM": ("MambaConfig", {"hidden_size": 48, "num_hidden_layers": 2, "vocab_size": V, "state_size": 8, "use_cache": False}),
    "Mamba2ForCausalLM": (
        "Mamba2Config",
        {
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "vocab_size": V,
            "state_size": 8,
            "head_dim": 12,
            "num_heads": 8,
            "n_groups": 2,
            "chunk_size": 8,
            "use_cache": False,
        },
    ),
    "CTRLLMHeadModel": ("CTRLConfig", {**GPT, "dff": 96}),
    "XGLMForCausalLM": (
        "XGLMConfig",
        {"d_model": 48, "num_layers": 2, "attention_heads": 4, "ffn_dim": 96, "vocab_size": V, "use_cache": False},
    ),
}
OTHERS: dict[str, tuple[str, dict[str, Any], Callable[[], Any]]] = {
    "BertModel": ("BertConfig", {**BODY, "vocab_size": V}, ids),
    "RobertaForMaskedLM": ("RobertaConfig", {**BODY, "vocab_size": V, "max_position_embeddings": 64}, ids),
    "AlbertForMaskedLM": ("AlbertConfig", {**BODY, "vocab_size": V, "embedding_size": 24}, ids),
    "T5ForConditionalGeneration": (
        "T5Config",
        {"d_model": 48, "d_kv": 12, "d_ff": 96, "num_layers": 2, "num_heads": 4, "vocab_size": V, "use_cache": False},
        lambda: {"input_ids": ids(), "decoder_input_ids": ids()},
    ),
    "BartForConditionalGeneration": ("BartConfig", PAIR, lambda: (ids(), None, ids())),
    "WhisperForConditionalGeneration": (
        "WhisperConfig",
        {**PAIR, "num_mel_bins": 8, "max_source_positions": 32, "max_target_positions": 32, "decoder_start_token_id": 1},
        lambda: {"input_features": torch.randn(4, 8, 64), "decoder_input_ids": ids()},
    ),
    "ViTForImageClassification": ("ViTConfig", {**BODY, "image_size": 32, "patch_size": 8}, images),
    "Dinov2Model": ("Dinov2Config", {**BODY, "image_size": 32, "patch_size": 8}, images),
    "DeiTForImageClassification": ("DeiTConfig", {**BODY, "image_size": 32, "patch_size": 8}, images),
    "SwinForImageClassification": (
        "SwinConfig",
        {"image_size": 32, "patch_size": 4, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        images,
    ),
    "ConvNextForImageClassification": ("ConvNextConfig", {"hidden_sizes": [16, 32], "depths": [2, 2], "num_stages": 2}, images),
    "ResNetForImageClassification": (
        "ResNetConfig",
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"},
        images,
    ),
    "Wav2Vec2ForCTC": (
        "Wav2Vec2Config",
        {**SOUND, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2},
        lambda: torch.randn(4, 800),
    ),
}

RECURRENT = ("MambaForCausalLM", "Mamba2ForCausalLM")
"""Their states are sums of products that go together, which the theory takes for independent."""


def look(name: str, config: str, settings: dict[str, Any], example: Callable[[], Any]) -> SignalTable:
    torch.manual_seed(0)
    model = getattr(transformers, name)(getattr(transformers, config)(**settings))
    return mf.signal(model.eval(), example())


@pytest.mark.parametrize("name", [*LANGUAGE, *OTHERS])
def test_a_look_at_a_model_of_transformers_gives_a_table(name: str):
    table = look(name, *(*LANGUAGE[name], ids) if name in LANGUAGE else OTHERS[name])
    assert table.failures == () and table.warnings == ()
    assert [(row.layer, row.label, row.verdict) for row in table if row.verdict in (*FATAL, "unexpected")] == []
    if name in RECURRENT:
        return
    predicted = [row for row in table if row.predicted.forward > 0 and row.measured.forward > 0]
    assert len(predicted) > 0.8 * len(table)
    close = [row for row in predicted if abs(row.predicted.forward / row.measured.forward - 1) < 0.25]
    assert len(close) > 0.8 * len(predicted)
