"""Tiny random models of the true architectures, with a byte-level tokenizer: for tests and the smoke workflow."""

from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

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
# The class of Gemma 3's checkpoints from 4B on: a vision tower, whose layers bear the names of the language model's.
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1,
          "image_size": 16, "patch_size": 4}  # fmt: skip
# The judges of NoveltyBench: DeBERTa-v3 with all its settings for relative positions, in fewer buckets than a pair of
# answers has tokens; Gemma 2 with one layer that sees a window and one that sees everything.
CLASSIFIERS: dict[str, dict[str, Any]] = {
    "deberta_v2": {"model_type": "deberta-v2", "num_hidden_layers": 2, "num_labels": 2, "relative_attention": True,
                   "max_relative_positions": -1, "position_buckets": 32, "norm_rel_ebd": "layer_norm",
                   "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False,
                   "type_vocab_size": 0},
    "gemma2": {"model_type": "gemma2", "num_hidden_layers": 2, "num_labels": 1, "head_dim": 16, "sliding_window": 16,
               "query_pre_attn_scalar": 16},
}  # fmt: skip


def tiny_tokenizer(**roles: str) -> PreTrainedTokenizerFast:
    """Every byte is a token: a digit is one token, and any text can be written.

    roles    further roles of the special tokens, such as cls_token
    """
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
        additional_special_tokens=SPECIAL, **roles,
    )  # fmt: skip
    fast.chat_template = TEMPLATE
    return fast


def tiny_model(architecture: str, seed: int = 0) -> tuple[Any, PreTrainedTokenizerFast]:
    """A random float32 model of about 0.1 million parameters and its tokenizer; the same seed, the same weights.

    A causal language model, or for the architectures of judges a sequence classifier.
    """
    known = RECIPES | CLASSIFIERS | {"gemma3_vision": RECIPES["gemma3"]}
    if architecture not in known:
        raise CftError(f"unknown tiny architecture {architecture!r}; known: {', '.join(known)}")
    roles = {"cls_token": SPECIAL[1], "sep_token": SPECIAL[2]} if architecture == "deberta_v2" else {}
    tokenizer = tiny_tokenizer(**roles)
    recipe: dict[str, Any] = known[architecture] | SIZE
    config = AutoConfig.for_model(
        **recipe, vocab_size=len(tokenizer), max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
        initializer_range=0.2,
    )  # fmt: skip
    if architecture == "gemma3_vision":
        config = AutoConfig.for_model(
            "gemma3", text_config=config.to_dict(), vision_config=VISION, mm_tokens_per_image=4,
            image_token_index=tokenizer.pad_token_id, tie_word_embeddings=True,
        )  # fmt: skip
    kind: Any = AutoModelForSequenceClassification if architecture in CLASSIFIERS else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind.from_config(config, dtype=torch.float32)
    if architecture in CLASSIFIERS:
        _spread_verdicts(model)
    return model, tokenizer


@torch.no_grad()
def _spread_verdicts(model: Any) -> None:
    """Move a judge's outputs to where NoveltyBench's thresholds lie: random weights alone fall on one side of them."""
    if model.config.num_labels == 1:
        model.score.weight *= 4
    else:
        model.classifier.bias += torch.tensor([4.6, 0.0])
