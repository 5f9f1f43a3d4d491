"""Tiny random models of many families, as (model class, config class, options), built from transformers' own code."""

TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 50,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
GROUPED = {**TEXT, "num_key_value_heads": 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MIXED = {"layer_types": ["sliding_attention", "full_attention"]}
IMAGE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.3,
}
HALVES = {"lru_width": 32, "block_types": ["recurrent", "attention"], "attention_window_size": 16}
SPEECH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
MODEL = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}
MODEL |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 50}
MODEL |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "init_std": 0.3}

FAMILIES: dict[str, tuple[str, str, dict]] = {
    "Llama": ("LlamaForCausalLM", "LlamaConfig", GROUPED),
    "Qwen3-MoE": ("Qwen3MoeForCausalLM", "Qwen3MoeConfig", {**GROUPED, **EXPERTS, "head_dim": 8}),
    "Gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**GROUPED, **MIXED, "head_dim": 8}),
    "Gemma3n": (
        "Gemma3nForCausalLM",
        "Gemma3nTextConfig",
        {
            **GROUPED,
            "head_dim": 8,
            "num_hidden_layers": 4,
            "vocab_size_per_layer_input": 50,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
            "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "intermediate_size": [64] * 4,
            "activation_sparsity_pattern": [0.0] * 4,
        },
    ),
    "Phi3": ("Phi3ForCausalLM", "Phi3Config", GROUPED),
    "DeepSeek-V3": (
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        {
            **TEXT,
            "num_key_value_heads": 4,
            "moe_intermediate_size": 32,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 16,
            "q_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
        },
    ),
    "GPT-OSS": (
        "GptOssForCausalLM",
        "GptOssConfig",
        {**GROUPED, **MIXED, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1},
    ),
    "Cohere2": ("Cohere2ForCausalLM", "Cohere2Config", {**GROUPED, **MIXED}),
    "GLM4": ("Glm4ForCausalLM", "Glm4Config", {**GROUPED, "head_dim": 8}),
    "Llama4": (
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        {**GROUPED, "head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 64},
    ),
    "Qwen3-Next": (
        "Qwen3NextForCausalLM",
        "Qwen3NextConfig",
        {
            **GROUPED,
            **EXPERTS,
            "head_dim": 8,
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "shared_expert_intermediate_size": 32,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "StableLM": ("StableLmForCausalLM", "StableLmConfig", GROUPED),
    "SmolLM3": ("SmolLM3ForCausalLM", "SmolLM3Config", GROUPED),
    "OLMoE": ("OlmoeForCausalLM", "OlmoeConfig", {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2}),
    "Nemotron": ("NemotronForCausalLM", "NemotronConfig", GROUPED),
    "Starcoder2": ("Starcoder2ForCausalLM", "Starcoder2Config", GROUPED),
    "Bamba": (
        "BambaForCausalLM",
        "BambaConfig",
        {
            **GROUPED,
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
            "mamba_expand": 2,
            "mamba_chunk_size": 8,
            "attn_layer_indices": [1],
        },
    ),
    "Mamba2": (
        "Mamba2ForCausalLM",
        "Mamba2Config",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "vocab_size": 50,
            "state_size": 8,
            "num_heads": 8,
            "head_dim": 8,
            "n_groups": 1,
            "expand": 2,
            "chunk_size": 8,
        },
    ),
    "FalconMamba": (
        "FalconMambaForCausalLM",
        "FalconMambaConfig",
        {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 50, "state_size": 8, "intermediate_size": 64},
    ),
    "RWKV": (
        "RwkvForCausalLM",
        "RwkvConfig",
        {
            "vocab_size": 50,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "attention_hidden_size": 32,
            "context_length": 64,
        },
    ),
    "RecurrentGemma": (
        "RecurrentGemmaForCausalLM",
        "RecurrentGemmaConfig",
        {**TEXT, **HALVES, "num_key_value_heads": 1, "head_dim": 8},
    ),
    "LFM2": (
        "Lfm2ForCausalLM",
        "Lfm2Config",
        {**GROUPED, "layer_types": ["conv", "full_attention"], "block_ff_dim": 64, "block_auto_adjust_ff_dim": False},
    ),
    "CodeGen": (
        "CodeGenForCausalLM",
        "CodeGenConfig",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "vocab_size": 50, "n_positions": 64},
    ),
    "XGLM": (
        "XGLMForCausalLM",
        "XGLMConfig",
        {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 64, "vocab_size": 50},
    ),
    "ModernBERT": ("ModernBertModel", "ModernBertConfig", TEXT),
    "DistilBERT": (
        "DistilBertModel",
        "DistilBertConfig",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 50, "initializer_range": 0.3},
    ),
    "ELECTRA": ("ElectraModel", "ElectraConfig", {**TEXT, "embedding_size": 32}),
    "DeBERTa-v2": ("DebertaV2Model", "DebertaV2Config", TEXT),
    "ALBERT": ("AlbertModel", "AlbertConfig", {**TEXT, "embedding_size": 32}),
    "MPNet": ("MPNetForMaskedLM", "MPNetConfig", TEXT),
    "RoBERTa": ("RobertaForMaskedLM", "RobertaConfig", TEXT),
    "RoFormer": ("RoFormerModel", "RoFormerConfig", {**TEXT, "embedding_size": 32}),
    "XLNet": (
        "XLNetModel",
        "XLNetConfig",
        {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "vocab_size": 50, "initializer_range": 0.3},
    ),
    "Longformer": ("LongformerModel", "LongformerConfig", {**TEXT, "attention_window": 4}),
    "FNet": ("FNetModel", "FNetConfig", {k: v for k, v in TEXT.items() if k != "num_attention_heads"}),
    "ESM": ("EsmModel", "EsmConfig", {**TEXT, "pad_token_id": 1, "position_embedding_type": "rotary"}),
    "BART": ("BartModel", "BartConfig", MODEL),
    "LongT5": (
        "LongT5EncoderModel",
        "LongT5Config",
        {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 64, "vocab_size": 50, "local_radius": 3},
    ),
    "Whisper": (
        "WhisperModel",
        "WhisperConfig",
        {**MODEL, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16},
    ),
    "Wav2Vec2": (
        "Wav2Vec2Model",
        "Wav2Vec2Config",
        {
            **SPEECH,
            "conv_dim": [16, 16],
            "conv_stride": [5, 2],
            "conv_kernel": [10, 3],
            "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 2,
            "feat_extract_norm": "layer",
        },
    ),
    "AST": ("ASTModel", "ASTConfig", {**SPEECH, "max_length": 32, "num_mel_bins": 16, "patch_size": 8}),
    "SigLIP-vision": ("SiglipVisionModel", "SiglipVisionConfig", IMAGE),
    "DINOv2": ("Dinov2Model", "Dinov2Config", IMAGE),
    "DINOv3": ("DINOv3ViTModel", "DINOv3ViTConfig", IMAGE),
    "DeiT": ("DeiTModel", "DeiTConfig", IMAGE),
    "BEiT": ("BeitModel", "BeitConfig", IMAGE),
    "Swin": (
        "SwinModel",
        "SwinConfig",
        {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4},
    ),
    "SegFormer": (
        "SegformerModel",
        "SegformerConfig",
        {"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [16, 32]}
        | {"patch_sizes": [3, 3], "strides": [2, 2], "num_attention_heads": [2, 4], "mlp_ratios": [2, 2]},
    ),
    "ConvNeXt": (
        "ConvNextModel",
        "ConvNextConfig",
        {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "image_size": 32, "layer_scale_init_value": 1.0},
    ),
    "MobileViT": (
        "MobileViTModel",
        "MobileViTConfig",
        {"image_size": 64, "hidden_sizes": [16, 16, 16], "neck_hidden_sizes": [8, 8, 16, 16, 16, 16, 32]}
        | {"num_attention_heads": 2, "initializer_range": 0.3},
    ),
    "EfficientNet": (
        "EfficientNetModel",
        "EfficientNetConfig",
        {"image_size": 32, "width_coefficient": 0.25, "depth_coefficient": 0.1, "hidden_dim": 320}
        | {"initializer_range": 0.3},
    ),
    "ViT-MAE": ("ViTMAEModel", "ViTMAEConfig", {**IMAGE, "mask_ratio": 0.0}),
}


def build(name: str):
    """(model, its inputs) of a family, random and small, in eval mode."""
    import torch
    import transformers

    model_class, config_class, options = FAMILIES[name]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**options)
    model = getattr(transformers, model_class)(config).eval()
    if name in ("EfficientNet", "MobileViT"):  # whose random weights would let the signal fade
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.constant_(module.weight, 2.0)
    wanted = model.main_input_name
    if wanted == "pixel_values":
        size = getattr(config, "image_size", 32)
        inputs = {"pixel_values": torch.randn(2, 3, size, size)}
        return model, inputs | ({"noise": torch.rand(2, 16)} if name == "ViT-MAE" else {})
    if wanted == "input_features":
        return model, {"input_features": torch.randn(2, 8, 32), "decoder_input_ids": torch.randint(3, 50, (2, 6))}
    if wanted == "input_values":
        return model, {"input_values": torch.randn(2, *((32, 16) if name == "AST" else (400,)))}
    return model, {"input_ids": torch.randint(3, 50, (2, 12))}
