"""Attention over the blocks of cft.packed, for any decoder of transformers.

A model computes everything else on one row of slots. Its layers call a function that transformers knows by name; ours
cuts queries into blocks and hands each the keys that it may see. Keys are not repeated for the heads that share them.
Of a long row nothing of this is kept for the backward pass, which computes it again.
"""

import sys
from typing import Any, cast

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from cft import CftError
from cft.memory import KEPT

States = torch.Tensor


def use_blocks(model: Any) -> None:
    """Let a model's layers attend block by block wherever they are given `blocks`; raises CftError if they cannot."""
    config = _config(model)
    used = config._attn_implementation
    if used in ("sdpa", "eager"):
        config._attn_implementation = f"cft_{used}"
    elif used not in ("cft_sdpa", "cft_eager"):
        raise CftError(f"models with the attention {used} cannot be trained yet; see cft/attention.py")


def mask(model: Any, seen: torch.Tensor, keys: torch.Tensor, position: torch.Tensor) -> Any:
    """What a model of `use_blocks` takes for Packed's `seen`, `keys` and `position`: [blocks, 1, queries, keys].

    One for each kind of its layers. Where heads that share keys are one product, each has its own copy of the queries.
    Raises CftError for layers that are neither full nor windowed attention.
    """
    config = _config(model)
    kinds = set(getattr(config, "layer_types", None) or ())
    if unknown := kinds - {"full_attention", "sliding_attention"}:
        raise CftError(f"layers of the kind {', '.join(sorted(unknown))} cannot be trained yet; see cft/attention.py")
    window = getattr(config, "sliding_window", None)
    place = position[keys]
    distance = place[:, -seen.shape[1] :, None] - place[:, None]
    near = seen & (distance < window) if window else seen
    if len(kinds) > 1:
        return {"full_attention": _added(model, seen), "sliding_attention": _added(model, near)}
    return _added(model, seen if kinds == {"full_attention"} else near)


def _config(model: Any) -> Any:
    return getattr(model, "module", model).config.get_text_config()  # it may be wrapped, for several processes


def _added(model: Any, seen: torch.Tensor) -> torch.Tensor:
    """What is added to attention scores; every kernel takes it, and keeps no copy by layer."""
    config = _config(model)
    if config._attn_implementation == "cft_sdpa":
        seen = seen.repeat(1, config.num_attention_heads // config.num_key_value_heads, 1)
    dtype = getattr(model, "module", model).get_input_embeddings().weight.dtype
    added = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return added.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


def _chosen(states: States, blocks: torch.Tensor) -> States:
    """[1, heads, slots, width] at the keys of each block: [blocks, heads, keys, width]."""
    _, heads, _, width = states.shape
    return states[0].index_select(1, blocks.flatten()).view(heads, *blocks.shape, width).transpose(0, 1)


def _twice(function: Any, query: States, key: States, value: States) -> States:
    """What `function` makes of them; where there are more than KEPT slots, they are all that is kept of it."""
    if query.shape[2] <= KEPT or not torch.is_grad_enabled():
        return function(query, key, value)
    return cast(States, checkpoint(function, query, key, value, use_reentrant=False))


def _by_kernel(
    module: Any, query: States, key: States, value: States, attention_mask: Any,
    blocks: torch.Tensor | None = None, dropout: float = 0.0, scaling: float | None = None, **others: Any,
) -> tuple[States, None]:  # fmt: skip
    """By PyTorch's scaled_dot_product_attention; `blocks` are Packed.keys."""
    if blocks is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    if others.get("position_bias") is not None:
        raise CftError(f"{type(module).__name__} adds a bias to its scores, which cannot be trained yet")

    def attended(query: States, key: States, value: States) -> States:
        _, heads, slots, width = query.shape
        number, shared = len(blocks), heads // key.shape[1]
        # Heads that share keys follow each other: their queries are as good as more queries of one head.
        queries = query.view(-1, shared, number, slots // number, width).permute(2, 0, 1, 3, 4).flatten(2, 3)
        keys, values = _chosen(key, blocks), _chosen(value, blocks)
        found = scaled_dot_product_attention(queries, keys, values, attention_mask, dropout, scale=scaling)
        found = found.view(number, -1, shared, slots // number, width).permute(0, 3, 1, 2, 4)
        return found.reshape(1, slots, heads, width)

    return _twice(attended, query, key, value), None


def _by_model(
    module: Any, query: States, key: States, value: States, attention_mask: Any,
    blocks: torch.Tensor | None = None, **others: Any,
) -> tuple[States, States | None]:  # fmt: skip
    """As the model's own code does it: gpt-oss has sinks, which no kernel knows."""
    own = sys.modules[type(module).__module__].eager_attention_forward
    if blocks is None:
        return own(module, query, key, value, attention_mask, **others)

    def attended(query: States, key: States, value: States) -> States:
        queries = query[0].unflatten(1, (len(blocks), -1)).transpose(0, 1)
        found, _ = own(module, queries, _chosen(key, blocks), _chosen(value, blocks), attention_mask, **others)
        return found.flatten(0, 1)[None]

    return _twice(attended, query, key, value), None


AttentionInterface.register("cft_sdpa", _by_kernel)
AttentionInterface.register("cft_eager", _by_model)
AttentionMaskInterface.register("cft_sdpa", sdpa_mask)
AttentionMaskInterface.register("cft_eager", eager_mask)
