# SPDX-License-Identifier: Apache-2.0
"""Configuration of a Baichuan2 model: the keys of its ``config.json``. Written for vamc; small on purpose."""

from transformers import PretrainedConfig


class BaichuanConfig(PretrainedConfig):
    """Sizes and constants of the model; lengths are in tokens."""

    model_type = "baichuan"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(
        self,
        vocab_size=3200,
        hidden_size=192,
        intermediate_size=528,
        num_hidden_layers=4,
        num_attention_heads=6,
        hidden_act="silu",
        max_position_embeddings=1024,
        model_max_length=1024,
        initializer_range=0.02,
        rms_norm_eps=1e-6,
        use_cache=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.hidden_act = hidden_act
        self.max_position_embeddings = max_position_embeddings
        self.model_max_length = model_max_length
        self.initializer_range = initializer_range
        self.rms_norm_eps = rms_norm_eps
        self.use_cache = use_cache
        super().__init__(
            pad_token_id=pad_token_id,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )
