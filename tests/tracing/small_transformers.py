"""Small random models of `transformers`, and what each is by its code: written down by hand, block by block.

Names are those of one block with `*` for its number. `ends` are the matrices whose outputs are added to the stream, `blocks` the
projections that hold several matrices (their names in order), `fans` the fan_in of matrices whose shape would mislead, `roles`
a parameter of each role that the model has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

QKV = ("query", "key", "value")
GATE_UP = ("gate", "up")


@dataclass(frozen=True)
class Known:
    """What a model is, by its code.

    Attributes:
        make: gives the model and an input.
        ends: globs of what ends its residual branches, each of which is there `times`.
        blocks: glob of a packed matrix -> the names of its blocks.
        roles: glob -> the roles that it has among others.
        fans: glob -> fan_in.
        norms: how many norm scales there are.
    """

    make: Callable[[], tuple[nn.Module, Any]]
    ends: tuple[str, ...]
    blocks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    fans: Mapping[str, float] = field(default_factory=dict)


SIZES = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 60,
    "max_position_embeddings": 64,
}
OF_IMAGES = {key: SIZES[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")}
OF_IMAGES |= {"image_size": 32, "patch_size": 8}
GROUPED = {"num_key_value_heads": 2}
IDS = torch.arange(16).reshape(2, 8)


def build(model: str, config: str, inputs: Any, **settings: Any) -> Callable[[], tuple[nn.Module, Any]]:
    def make() -> tuple[nn.Module, Any]:
        import transformers

        return getattr(transformers, model)(getattr(transformers, config)(**settings)).eval(), inputs

    return make


def causal(name: str, **settings: Any) -> Callable[[], tuple[nn.Module, Any]]:
    return build(f"{name}ForCausalLM", f"{name}Config", IDS, **{**SIZES, **settings})


def images(model: str, config: str, size: int = 32, **settings: Any) -> Callable[[], tuple[nn.Module, Any]]:
    return build(model, config, torch.zeros(2, 3, size, size), **settings)


LAYER = "model.layers.*"
SEPARATE = {
    f"{LAYER}.self_attn.q_proj.weight": "query",
    f"{LAYER}.self_attn.k_proj.weight": "key",
    f"{LAYER}.self_attn.v_proj.weight": "value",
}
SWIGLU = {f"{LAYER}.mlp.gate_proj.weight": "gate", f"{LAYER}.mlp.up_proj.weight": "up", f"{LAYER}.mlp.down_proj.weight": "down"}
LLAMA_ENDS = (f"{LAYER}.self_attn.o_proj.weight", f"{LAYER}.mlp.down_proj.weight")
LLAMA_ROLES = {**SEPARATE, **SWIGLU, "model.embed_tokens.weight": "embedding", f"{LAYER}.input_layernorm.weight": "norm"}
HEAD = {"lm_head.weight": "head"}
TIED = {"model.embed_tokens.weight": "head"}
EXPERTS = {f"{LAYER}.mlp.experts.gate_up_proj": GATE_UP}
MOE_ENDS = (f"{LAYER}.self_attn.o_proj.weight", f"{LAYER}.mlp.experts.down_proj")
MOE_ROLES = {**SEPARATE, f"{LAYER}.mlp.gate.weight": "router", f"{LAYER}.mlp.experts.down_proj": "down", **HEAD}
NEOX = "gpt_neox.layers.*"
GPT = "transformer.h.*"
OF_GPT = {"n_embd": 48, "n_layer": 2, "n_head": 4, "vocab_size": 60, "n_positions": 32}
OF_FALCON = {"hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 60}
FALCON_ENDS = (f"{GPT}.self_attention.dense.weight", f"{GPT}.mlp.dense_4h_to_h.weight")
MIXER = "backbone.layers.*.mixer"
BERT = "bert.encoder.layer.*"
BERT_ENDS = (f"{BERT}.attention.output.dense.weight", f"{BERT}.output.dense.weight")
BERT_ROLES = {f"{BERT}.attention.self.{name}.weight": name for name in QKV} | {"bert.embeddings.word_embeddings.weight": "head"}
SPEECH = {key: SIZES[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")}
SPEECH |= {"conv_dim": (16, 16, 16), "conv_stride": (5, 2, 2), "conv_kernel": (10, 3, 3)}
SPEECH |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
SPEECH_ENDS = (
    "encoder.pos_conv_embed.conv.parametrizations.weight.original1",  # a convolution through GELU, added to what it sees
    "encoder.layers.*.attention.out_proj.weight",
    "encoder.layers.*.feed_forward.output_dense.weight",
)
SEQ2SEQ = {"d_model": 48, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
SEQ2SEQ |= {"encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "vocab_size": 60}
BART_ENDS = (
    "model.encoder.layers.*.self_attn.out_proj.weight",
    "model.encoder.layers.*.fc2.weight",
    "model.decoder.layers.*.self_attn.out_proj.weight",
    "model.decoder.layers.*.encoder_attn.out_proj.weight",
    "model.decoder.layers.*.fc2.weight",
)
VIT_QKV = {f"encoder.layer.*.attention.{name[0]}_proj.weight": name for name in QKV}

KNOWN: dict[str, Known] = {
    "gpt2": Known(
        build("GPT2LMHeadModel", "GPT2Config", IDS, **OF_GPT),
        (f"{GPT}.attn.c_proj.weight", f"{GPT}.mlp.c_proj.weight"),
        {f"{GPT}.attn.c_attn.weight": QKV},
        {"transformer.wte.weight": "head", "transformer.wpe.weight": "embedding", f"{GPT}.ln_1.weight": "norm"},
        {f"{GPT}.mlp.c_fc.weight": 48, f"{GPT}.mlp.c_proj.weight": 192},
    ),
    "llama": Known(causal("Llama", **GROUPED), LLAMA_ENDS, {}, {**LLAMA_ROLES, **HEAD}),
    "mistral": Known(causal("Mistral", **GROUPED), LLAMA_ENDS, {}, {**LLAMA_ROLES, **HEAD}),
    "qwen2": Known(causal("Qwen2", **GROUPED), LLAMA_ENDS, {}, {**LLAMA_ROLES, **HEAD, f"{LAYER}.self_attn.q_proj.bias": "bias"}),
    "qwen3": Known(
        causal("Qwen3", head_dim=12, **GROUPED), LLAMA_ENDS, {}, {**LLAMA_ROLES, **HEAD, f"{LAYER}.self_attn.q_norm.weight": "norm"}
    ),
    "gemma": Known(causal("Gemma", head_dim=12, **GROUPED), LLAMA_ENDS, {}, {**LLAMA_ROLES, **TIED}),
    "gemma2": Known(
        causal("Gemma2", head_dim=12, **GROUPED),
        LLAMA_ENDS,
        {},
        {**LLAMA_ROLES, **TIED, f"{LAYER}.post_feedforward_layernorm.weight": "residual_norm"},
    ),
    "gemma3": Known(
        build("Gemma3ForCausalLM", "Gemma3TextConfig", IDS, **SIZES, **GROUPED, head_dim=12), LLAMA_ENDS, {}, {**LLAMA_ROLES, **TIED}
    ),
    "olmo": Known(causal("Olmo", **GROUPED), LLAMA_ENDS, {}, {**SEPARATE, **SWIGLU, **HEAD}),
    "olmo2": Known(causal("Olmo2", **GROUPED), LLAMA_ENDS, {}, {**SEPARATE, **SWIGLU, f"{LAYER}.post_attention_layernorm.weight": "norm"}),
    "phi": Known(
        causal("Phi"),
        (f"{LAYER}.self_attn.dense.weight", f"{LAYER}.mlp.fc2.weight"),
        {},
        {**SEPARATE, **HEAD, f"{LAYER}.mlp.fc1.weight": "weight"},
    ),
    "phi3": Known(
        causal("Phi3", pad_token_id=0, **GROUPED),
        LLAMA_ENDS,
        {f"{LAYER}.self_attn.qkv_proj.weight": QKV, f"{LAYER}.mlp.gate_up_proj.weight": GATE_UP},
        {f"{LAYER}.mlp.down_proj.weight": "down", **HEAD},
    ),
    "glm": Known(
        causal("Glm", head_dim=12, pad_token_id=0, **GROUPED),
        LLAMA_ENDS,
        {f"{LAYER}.mlp.gate_up_proj.weight": GATE_UP},
        {**SEPARATE, f"{LAYER}.mlp.down_proj.weight": "down", **HEAD},
    ),
    "falcon": Known(  # parallel: attention and mlp are added to the stream at once
        build("FalconForCausalLM", "FalconConfig", IDS, **OF_FALCON),
        FALCON_ENDS,
        {f"{GPT}.self_attention.query_key_value.weight": QKV},
        {"transformer.word_embeddings.weight": "head"},
    ),
    "falcon of 40B": Known(  # interleaved: for each group its queries, a key and a value
        build("FalconForCausalLM", "FalconConfig", IDS, **OF_FALCON, new_decoder_architecture=True, num_kv_heads=2),
        FALCON_ENDS,
        {f"{GPT}.self_attention.query_key_value.weight": QKV},
    ),
    "cohere": Known(causal("Cohere", **GROUPED), LLAMA_ENDS, {}, {**SEPARATE, **SWIGLU, **TIED}),
    "granite": Known(causal("Granite", **GROUPED), LLAMA_ENDS, {}, {**LLAMA_ROLES, **HEAD}),
    "starcoder2": Known(
        causal("Starcoder2", **GROUPED), (f"{LAYER}.self_attn.o_proj.weight", f"{LAYER}.mlp.c_proj.weight"), {}, {**SEPARATE, **TIED}
    ),
    "gpt_neox": Known(
        causal("GPTNeoX"),
        (f"{NEOX}.attention.dense.weight", f"{NEOX}.mlp.dense_4h_to_h.weight"),
        {f"{NEOX}.attention.query_key_value.weight": QKV},
        {"gpt_neox.embed_in.weight": "embedding", **HEAD},
    ),
    "gptj": Known(
        build("GPTJForCausalLM", "GPTJConfig", IDS, **OF_GPT, rotary_dim=8),
        (f"{GPT}.attn.out_proj.weight", f"{GPT}.mlp.fc_out.weight"),
        {},
        {f"{GPT}.attn.q_proj.weight": "query", f"{GPT}.attn.k_proj.weight": "key", f"{GPT}.attn.v_proj.weight": "value", **HEAD},
    ),
    "bloom": Known(
        build("BloomForCausalLM", "BloomConfig", IDS, hidden_size=48, n_layer=2, n_head=4, vocab_size=60),
        (f"{GPT}.self_attention.dense.weight", f"{GPT}.mlp.dense_4h_to_h.weight"),
        {f"{GPT}.self_attention.query_key_value.weight": QKV},
        {"transformer.word_embeddings.weight": "head"},
    ),
    "opt": Known(
        build(
            "OPTForCausalLM",
            "OPTConfig",
            IDS,
            hidden_size=48,
            ffn_dim=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            vocab_size=60,
            max_position_embeddings=64,
            word_embed_proj_dim=48,
        ),
        ("model.decoder.layers.*.self_attn.out_proj.weight", "model.decoder.layers.*.fc2.weight"),
        {},
        {"model.decoder.embed_tokens.weight": "head", "model.decoder.embed_positions.weight": "embedding"},
    ),
    "mixtral": Known(
        causal("Mixtral", num_local_experts=4, **GROUPED),
        MOE_ENDS,
        EXPERTS,
        MOE_ROLES,
        {f"{LAYER}.mlp.experts.gate_up_proj": 48, f"{LAYER}.mlp.experts.down_proj": 96},
    ),
    "qwen3_moe": Known(
        causal("Qwen3Moe", num_experts=4, moe_intermediate_size=32, num_experts_per_tok=2, head_dim=12, **GROUPED),
        MOE_ENDS,
        EXPERTS,
        MOE_ROLES,
        {f"{LAYER}.mlp.experts.gate_up_proj": 48, f"{LAYER}.mlp.experts.down_proj": 32},
    ),
    "qwen2_moe": Known(
        causal("Qwen2Moe", num_experts=4, moe_intermediate_size=32, num_experts_per_tok=2, shared_expert_intermediate_size=64, **GROUPED),
        (*MOE_ENDS, f"{LAYER}.mlp.shared_expert.down_proj.weight"),
        EXPERTS,
        {**MOE_ROLES, f"{LAYER}.mlp.shared_expert.gate_proj.weight": "gate"},
        {f"{LAYER}.mlp.experts.down_proj": 32},
    ),
    "gpt_oss": Known(  # stacks of (experts, in, out), gate and up in turn
        causal("GptOss", num_local_experts=4, num_experts_per_tok=2, head_dim=12, **GROUPED),
        MOE_ENDS,
        EXPERTS,
        {**SEPARATE, **HEAD, f"{LAYER}.mlp.router.weight": "router", f"{LAYER}.mlp.experts.down_proj_bias": "bias"},
        {f"{LAYER}.mlp.experts.gate_up_proj": 48, f"{LAYER}.mlp.experts.down_proj": 96},
    ),
    "mamba": Known(
        build("MambaForCausalLM", "MambaConfig", IDS, hidden_size=48, num_hidden_layers=2, vocab_size=60, state_size=8),
        (f"{MIXER}.out_proj.weight",),
        {},
        {"backbone.embeddings.weight": "head", f"{MIXER}.D": "scale", f"{MIXER}.dt_proj.bias": "bias", "backbone.norm_f.weight": "norm"},
        {f"{MIXER}.in_proj.weight": 48, f"{MIXER}.dt_proj.weight": 3, f"{MIXER}.out_proj.weight": 96},
    ),
    "mamba2": Known(
        build(
            "Mamba2ForCausalLM",
            "Mamba2Config",
            IDS,
            hidden_size=48,
            num_hidden_layers=2,
            vocab_size=60,
            state_size=8,
            num_heads=8,
            head_dim=12,
            n_groups=2,
            chunk_size=4,
        ),
        (f"{MIXER}.out_proj.weight",),
        {},
        {**HEAD, f"{MIXER}.dt_bias": "bias", f"{MIXER}.norm.weight": "norm", f"{MIXER}.D": "scale"},
    ),
    "bert": Known(build("BertForMaskedLM", "BertConfig", IDS, **SIZES), BERT_ENDS, {}, BERT_ROLES),
    "roberta": Known(
        build("RobertaForMaskedLM", "RobertaConfig", IDS, **SIZES),
        tuple(end.replace("bert.", "roberta.", 1) for end in BERT_ENDS),
        {},
        {name.replace("bert.", "roberta.", 1): role for name, role in BERT_ROLES.items()},
    ),
    "modernbert": Known(
        build(
            "ModernBertForMaskedLM",
            "ModernBertConfig",
            IDS,
            **SIZES,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            cls_token_id=1,
            sep_token_id=2,
        ),
        (f"{LAYER}.attn.Wo.weight", f"{LAYER}.mlp.Wo.weight"),
        {f"{LAYER}.attn.Wqkv.weight": QKV, f"{LAYER}.mlp.Wi.weight": GATE_UP},
        {f"{LAYER}.mlp.Wo.weight": "down", "model.embeddings.tok_embeddings.weight": "head"},
    ),
    "t5": Known(
        build(
            "T5ForConditionalGeneration",
            "T5Config",
            {"input_ids": IDS, "decoder_input_ids": IDS},
            d_model=48,
            d_kv=12,
            d_ff=96,
            num_layers=2,
            num_heads=4,
            vocab_size=60,
            decoder_start_token_id=0,
        ),
        (
            "encoder.block.*.layer.*.SelfAttention.o.weight",
            "encoder.block.*.layer.*.DenseReluDense.wo.weight",
            "decoder.block.*.layer.*.SelfAttention.o.weight",
            "decoder.block.*.layer.*.EncDecAttention.o.weight",
            "decoder.block.*.layer.*.DenseReluDense.wo.weight",
        ),
        {},
        {"shared.weight": "head", "*.SelfAttention.relative_attention_bias.weight": "embedding", "*.EncDecAttention.k.weight": "key"},
    ),
    "bart": Known(
        build(
            "BartForConditionalGeneration",
            "BartConfig",
            {"input_ids": IDS, "decoder_input_ids": IDS},
            **SEQ2SEQ,
            max_position_embeddings=64,
        ),
        BART_ENDS,
        {},
        {"model.encoder.layers.*.self_attn.q_proj.weight": "query", "model.shared.weight": "head"},
    ),
    "whisper": Known(
        build(
            "WhisperForConditionalGeneration",
            "WhisperConfig",
            {"input_features": torch.zeros(2, 16, 64), "decoder_input_ids": IDS},
            **SEQ2SEQ,
            num_mel_bins=16,
            max_source_positions=32,
            max_target_positions=32,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        ),
        BART_ENDS,
        {},
        {"model.encoder.conv1.weight": "stem", "model.decoder.embed_tokens.weight": "head"},
    ),
    "vit": Known(
        images("ViTForImageClassification", "ViTConfig", **OF_IMAGES),
        ("vit.layers.*.attention.o_proj.weight", "vit.layers.*.mlp.fc2.weight"),
        {},
        {"vit.embeddings.cls_token": "embedding", "vit.embeddings.position_embeddings": "embedding", "classifier.weight": "head"},
    ),
    "dinov2": Known(
        images("Dinov2Model", "Dinov2Config", **{key: size for key, size in OF_IMAGES.items() if key != "intermediate_size"}),
        ("encoder.layer.*.attention.o_proj.weight", "encoder.layer.*.mlp.fc2.weight"),
        {},
        {**VIT_QKV, "encoder.layer.*.layer_scale1.lambda1": "scale", "embeddings.patch_embeddings.projection.weight": "stem"},
    ),
    "swin": Known(
        images("SwinModel", "SwinConfig", 64, image_size=64, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4),
        ("encoder.layers.*.blocks.*.attention.o_proj.weight", "encoder.layers.*.blocks.*.mlp.fc2.weight"),
        {},
        {"*.relative_position_bias_table": "embedding", "encoder.layers.*.downsample.norm.weight": "norm"},
    ),
    "swinv2": Known(
        images("Swinv2Model", "Swinv2Config", 64, image_size=64, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4),
        ("encoder.layers.*.blocks.*.attention.output.dense.weight", "encoder.layers.*.blocks.*.output.dense.weight"),
        {},
        {"*.logit_scale": "scale", "*.layernorm_after.weight": "residual_norm", "*.continuous_position_bias_mlp.0.weight": "weight"},
    ),
    "convnext": Known(
        images("ConvNextModel", "ConvNextConfig", 64, hidden_sizes=[16, 24, 32, 40], depths=[1, 1, 2, 1]),
        ("encoder.stages.*.layers.*.pwconv2.weight",),
        {},
        {"encoder.stages.*.layers.*.layer_scale_parameter": "scale"},
    ),
    "wav2vec2": Known(
        build("Wav2Vec2Model", "Wav2Vec2Config", torch.zeros(2, 1000), **SPEECH),
        SPEECH_ENDS,
        {},
        {"encoder.layers.*.attention.q_proj.weight": "query", "feature_extractor.conv_layers.0.conv.weight": "stem"},
    ),
    "hubert": Known(build("HubertModel", "HubertConfig", torch.zeros(2, 1000), **SPEECH), SPEECH_ENDS),
}
