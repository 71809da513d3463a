"""Tiny random models of the true architectures, with a byte-level tokenizer: for tests and the smoke workflow."""

from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from cft import CftError

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZE = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
RECIPES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "num_hidden_layers": 2},
    "qwen3": {"model_type": "qwen3", "num_hidden_layers": 2, "head_dim": 16},
    # Six layers, so that one of them attends to everything; the window is shorter than our prompts.
    "gemma3": {"model_type": "gemma3_text", "num_hidden_layers": 6, "head_dim": 16, "sliding_window": 16},
    "gpt_oss": {"model_type": "gpt_oss", "num_hidden_layers": 2, "head_dim": 16, "sliding_window": 16,
                "num_local_experts": 4, "num_experts_per_tok": 2, "attn_implementation": "eager"},
}  # fmt: skip


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token: a digit is one token, and any text can be written."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left",
        additional_special_tokens=SPECIAL,
    )  # fmt: skip
    fast.chat_template = TEMPLATE
    return fast


def tiny_model(architecture: str, seed: int = 0) -> tuple[Any, PreTrainedTokenizerFast]:
    """A random float32 model of about 0.1 million parameters and its tokenizer; the same seed, the same weights."""
    if architecture not in RECIPES:
        raise CftError(f"unknown tiny architecture {architecture!r}; known: {', '.join(RECIPES)}")
    tokenizer = tiny_tokenizer()
    recipe: dict[str, Any] = RECIPES[architecture] | SIZE
    config = AutoConfig.for_model(
        **recipe, vocab_size=len(tokenizer), max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
        initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32), tokenizer
