"""Models of others as their authors made them, small: how each is built, an input of it, and what is truly wrong with a few."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

IDS = torch.arange(16).reshape(2, 8)
SMALL: dict[str, Any] = {
    **dict.fromkeys("hidden_size n_embd d_model dim emb_dim embedding_size word_embed_proj_dim attention_hidden_size".split(), 48),
    **dict.fromkeys("intermediate_size encoder_ffn_dim decoder_ffn_dim d_ff ffn_dim hidden_dim ffn_hidden_size".split(), 96),
    **dict.fromkeys("num_attention_heads n_head encoder_attention_heads decoder_attention_heads num_heads n_heads".split(), 4),
    **dict.fromkeys("num_hidden_layers n_layer encoder_layers decoder_layers num_layers n_layers".split(), 2),
    **dict.fromkeys("max_position_embeddings n_positions n_ctx max_seq_len max_source_positions max_target_positions".split(), 64),
    **dict.fromkeys("num_local_experts num_experts n_routed_experts".split(), 4),
    **dict.fromkeys("num_key_value_heads num_experts_per_tok type_vocab_size".split(), 2),
    **dict.fromkeys("n_group topk_group first_k_dense_replace n_shared_experts bos_token_id".split(), 1),
    **dict.fromkeys("qk_rope_head_dim qk_nope_head_dim state_size rotary_dim patch_size".split(), 8),
    **dict.fromkeys("moe_intermediate_size shared_expert_intermediate_size image_size".split(), 32),
    **dict.fromkeys("head_dim d_kv v_head_dim".split(), 12),
    "vocab_size": 60,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "attention_window": 4,
}
"""What makes a config of transformers small, by the names that configs have for it."""
OWN: dict[str, dict[str, Any]] = {
    "FalconMambaForCausalLM": {},
    "StableLmForCausalLM": {"hidden_size": 64, "head_dim": None, "rotary_dim": None},
    "DeepseekV2ForCausalLM": {"head_dim": None},
    "DeepseekV3ForCausalLM": {"head_dim": None},
    "RecurrentGemmaForCausalLM": {"num_hidden_layers": 3},
}
"""Settings of one model; None leaves its own."""
OF_TEXT = (
    "DistilBertForMaskedLM ElectraForMaskedLM AlbertForMaskedLM DebertaForMaskedLM DebertaV2ForMaskedLM XLMRobertaForMaskedLM "
    "MPNetForMaskedLM CamembertForMaskedLM ErnieForMaskedLM NystromformerForMaskedLM FNetForMaskedLM RoFormerForMaskedLM "
    "ConvBertForMaskedLM SqueezeBertForMaskedLM MobileBertForMaskedLM RemBertForMaskedLM EsmForMaskedLM LayoutLMForMaskedLM "
    "BigBirdForMaskedLM IBertForMaskedLM CodeGenForCausalLM GPTBigCodeForCausalLM MptForCausalLM StableLmForCausalLM PersimmonForCausalLM "
    "DeepseekV2ForCausalLM DeepseekV3ForCausalLM Glm4ForCausalLM Cohere2ForCausalLM SmolLM3ForCausalLM FalconMambaForCausalLM "
    "RecurrentGemmaForCausalLM GraniteMoeForCausalLM OlmoeForCausalLM JetMoeForCausalLM PhimoeForCausalLM MiniMaxForCausalLM "
    "BioGptForCausalLM XGLMForCausalLM HeliumForCausalLM DiffLlamaForCausalLM Ernie4_5ForCausalLM Ernie4_5_MoeForCausalLM "
    "HunYuanDenseV1ForCausalLM HunYuanMoEV1ForCausalLM Dots1ForCausalLM ArceeForCausalLM ApertusForCausalLM SeedOssForCausalLM "
    "Lfm2ForCausalLM Exaone4ForCausalLM Olmo3ForCausalLM Glm4MoeForCausalLM MinistralForCausalLM BitNetForCausalLM CTRLLMHeadModel "
    "OpenAIGPTLMHeadModel"
).split()
OF_TWO_TEXTS = (
    "MBartForConditionalGeneration PegasusForConditionalGeneration MarianMTModel M2M100ForConditionalGeneration "
    "BlenderbotForConditionalGeneration BlenderbotSmallForConditionalGeneration UMT5ForConditionalGeneration "
    "LongT5ForConditionalGeneration PLBartForConditionalGeneration"
).split()
OF_IMAGES = (
    "DeiTForImageClassification BeitForImageClassification DINOv3ViTModel ViTMAEModel ViTMSNForImageClassification IJepaModel".split()
)
EXPLAINED = {
    "NemotronForCausalLM": {"norm_scale"},
    "NanoChatForCausalLM": {"depth_scale"},
    "MT5ForConditionalGeneration": {"tied_scale", "first_loss"},
    "Dinov2WithRegistersForImageClassification": {"identical_units"},
}
"""The kinds of what is truly wrong with some models, as docs/audit.md explains it."""

OF_TORCHVISION = (
    "convnext_tiny deeplabv3_mobilenet_v3_large densenet121 efficientnet_b0 efficientnet_v2_s fcn_resnet50 googlenet "
    "lraspp_mobilenet_v3_large maxvit_t mc3_18 mnasnet1_0 mobilenet_v2 mobilenet_v3_large r2plus1d_18 r3d_18 raft_small regnet_x_400mf"
).split()
OF_TIMM = (
    "vit_tiny_patch16_224 vit_medium_patch16_reg4_gap_256 deit_tiny_distilled_patch16_224 swin_tiny_patch4_window7_224 convnext_atto "
    "convnextv2_atto efficientnet_lite0 tf_efficientnetv2_b0 mobilenetv3_small_050 mobilenetv4_conv_small regnety_002 regnetx_002 nfnet_l0 "
    "mixer_s32_224 gmlp_s16_224 resmlp_12_224 xcit_nano_12_p16_224 levit_128s pit_ti_224 convit_tiny crossvit_tiny_240 poolformer_s12 "
    "pvt_v2_b0 twins_pcpvt_small mobilevitv2_050 efficientformer_l1 fastvit_t8 ghostnet_050 densenet121 dla34 dpn48b eca_botnext26ts_256 "
    "cait_xxs24_224"
).split()


def of_transformers(name: str) -> tuple[nn.Module, Any]:
    """A small model of transformers, and a batch."""
    import transformers

    made = getattr(transformers, name)
    known = made.config_class()
    settings = {**SMALL, **OWN.get(name, {})}
    model = made(made.config_class(**{key: value for key, value in settings.items() if value is not None and hasattr(known, key)}))
    if name in OF_TEXT or "CausalLM" in name:
        return model, IDS
    if "Conditional" in name or name in OF_TWO_TEXTS:
        return model, {"input_ids": IDS, "decoder_input_ids": IDS}
    return model, torch.randn(2, 3, 32, 32)


def of_torchvision(name: str) -> tuple[nn.Module, Any]:
    """A model of torchvision, and a batch."""
    import torchvision

    module = torchvision.models.get_model_builder(name).__module__
    more = {"weights_backbone": None} if "segmentation" in module else {}
    model = torchvision.models.get_model(name, weights=None, **more)
    if "video" in module:
        return model, torch.randn(1, 3, 8, 64, 64)
    if "optical" in module:
        return model, (torch.randn(1, 3, 128, 128), torch.randn(1, 3, 128, 128))
    size = 224 if name.startswith("maxvit") else 96 if name == "googlenet" else 64
    images = torch.randn(2, 3, size, size)
    return model, images if "segmentation" in module else (images, torch.tensor([1, 2]))
