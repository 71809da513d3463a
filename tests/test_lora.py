"""Which layers get an adapter, of what type, and how many parameters it has."""

import pytest
import torch

from cft import CftError
from cft.lora import add_adapter
from cft.method_settings import LoraSettings
from cft.tiny import SIZE, tiny_model

LAYERS = {"llama": 2, "qwen3": 2, "gemma3": 6, "gemma3_vision": 6, "gpt_oss": 2}


def trainable(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("architecture", LAYERS)
def test_attention_projections_of_the_language_model_and_nothing_else(architecture):
    """Each projection of n inputs and m outputs gets rank * (n + m) parameters; the vision tower's get none."""
    model = add_adapter(tiny_model(architecture)[0], LoraSettings(rank=4))
    hidden, queries, keys = SIZE["hidden_size"], 16 * SIZE["num_attention_heads"], 16 * SIZE["num_key_value_heads"]
    wanted = LAYERS[architecture] * 4 * (2 * (hidden + queries) + 2 * (hidden + keys))
    found = trainable(model)
    assert sum(parameter.numel() for parameter in found.values()) == wanted
    assert len(found) == LAYERS[architecture] * 4 * 2
    assert not any("vision" in name or "projector" in name for name in found)
    vision = [name for name, _ in model.named_modules() if name.endswith("q_proj") and "vision" in name]
    assert bool(vision) == (architecture == "gemma3_vision")  # or the line above shows nothing


def test_a_scope_narrows_it_and_never_leaves_the_language_model():
    model, _ = tiny_model("gemma3_vision")
    assert all(
        "language_model.layers.3." in n
        for n in trainable(add_adapter(model, LoraSettings(), "model.language_model.layers.3"))
    )
    for scope in ("model.vision_tower", "model", "model.language_model_of_another"):
        with pytest.raises(
            CftError, match=f"lora_scope '{scope}' is not in the language model of Gemma3ForConditional"
        ):
            add_adapter(tiny_model("gemma3_vision")[0], LoraSettings(), scope)


def test_a_head_may_be_named_and_a_layer_outside_the_language_model_is_not_found():
    found = trainable(add_adapter(tiny_model("llama")[0], LoraSettings(targets=["q_proj", "lm_head"])))
    assert {name.split(".")[-4] for name in found} == {"q_proj", "lm_head"}
    with pytest.raises(CftError, match=r"fc1 names no layer in .* of Gemma3"):
        add_adapter(tiny_model("gemma3_vision")[0], LoraSettings(targets=["q_proj", "fc1"]))  # the vision tower has it


@pytest.mark.parametrize(("dtype", "wanted"), [("weights", torch.bfloat16), ("float32", torch.float32)])
def test_an_adapter_has_the_type_of_the_weights_or_float32(dtype, wanted):
    model = add_adapter(tiny_model("llama")[0].to(torch.bfloat16), LoraSettings(dtype=dtype))
    assert {parameter.dtype for parameter in trainable(model).values()} == {wanted}
    assert next(p for n, p in model.named_parameters() if "embed" in n).dtype == torch.bfloat16
    loss = model(torch.tensor([[1, 2, 3]])).logits.float().sum()
    loss.backward()
    assert {p.grad.dtype for n, p in trainable(model).items() if "lora_B" in n and p.grad is not None} == {wanted}
