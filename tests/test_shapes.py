"""Shapes against transformers' own models, made on the meta device from the published config.json values."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from cft import CftError
from cft.config import load
from cft.shapes import ATTENTION, Shape
from cft.tiny import RECIPES, tiny_model

PAPER = Path(__file__).resolve().parents[1] / "config" / "paper.yaml"
KEYS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "head_dim", "vocab_size", "tie_word_embeddings")  # fmt: skip
SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
    "num_attention_heads": 16, "image_size": 896, "patch_size": 14, "vision_use_head": False,
}  # fmt: skip
# From each config.json (KEYS, in order), and the number of parameters that the hub shows.
PUBLISHED = {
    "qwen3-0.6b": ("qwen3", (1024, 3072, 28, 16, 8, 128, 151936, True), 596_049_920),
    "qwen3-1.7b": ("qwen3", (2048, 6144, 28, 16, 8, 128, 151936, True), 1_720_574_976),
    "qwen3-4b": ("qwen3", (2560, 9728, 36, 32, 8, 128, 151936, True), 4_022_468_096),
    "qwen3-8b": ("qwen3", (4096, 12288, 36, 32, 8, 128, 151936, False), 8_190_735_360),
    "qwen3-14b": ("qwen3", (5120, 17408, 40, 40, 8, 128, 151936, False), 14_768_307_200),
    "llama-3.2-1b": ("llama", (2048, 8192, 16, 32, 8, 64, 128256, True), 1_235_814_400),
    "llama-3.2-3b": ("llama", (3072, 8192, 28, 24, 8, 128, 128256, True), 3_212_749_824),
    "gemma-3-1b": ("gemma3_text", (1152, 6912, 26, 4, 1, 256, 262144, True), 999_885_952),
    "gemma-3-4b": ("gemma3", (2560, 10240, 34, 8, 4, 256, 262208, True), 4_300_079_472),
    "gemma-3-12b": ("gemma3", (3840, 15360, 48, 16, 8, 256, 262208, True), 12_187_325_040),
    "gemma-3-27b": ("gemma3", (5376, 21504, 62, 32, 16, 128, 262208, True), 27_432_406_640),
    "gpt-oss-20b": ("gpt_oss", (2880, 2880, 24, 64, 8, 64, 201088, False), 20_914_757_184),
}


def published_model(name):
    kind, values, _ = PUBLISHED[name]
    text = dict(zip(KEYS, values, strict=True))
    if kind == "gpt_oss":
        text |= {"num_local_experts": 32, "num_experts_per_tok": 4}
    keys = {"text_config": text, "vision_config": SIGLIP} if kind == "gemma3" else text
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **keys))


def count(parameters):
    return sum(parameter.numel() for parameter in parameters)


@pytest.fixture(scope="module")
def paper():
    return load(PAPER)


def test_every_model_of_the_paper_has_a_shape(paper):
    assert set(paper.models) == set(PUBLISHED)
    assert all(model.shape is not None for model in paper.models.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_shape_counts_what_transformers_counts(paper, name):
    shape, model = paper.models[name].shape, published_model(name)
    assert shape.parameters == count(model.parameters()) == PUBLISHED[name][2]
    language = model.get_decoder()
    assert shape.other == shape.parameters - count(language.parameters()) - (
        0 if shape.tied_embeddings else count(model.get_output_embeddings().parameters())
    )
    elsewhere = r".*vision_tower.*" if shape.other else None
    lora = LoraConfig(r=16, target_modules=list(ATTENTION), exclude_modules=elsewhere)
    adapted = get_peft_model(model, lora, autocast_adapter_dtype=False)
    assert shape.trainable(16, ATTENTION) == count(p for p in adapted.parameters() if p.requires_grad)
    assert shape.weight_bytes("bfloat16") == 2 * PUBLISHED[name][2]


def test_experts_that_a_token_does_not_pass_are_not_active(paper):
    shape = paper.models["gpt-oss-20b"].shape
    expert = 3 * 2880 * 2880 + 3 * 2880  # gate, up and down, each with a bias
    assert shape.active == shape.parameters - 201088 * 2880 - 24 * 28 * expert
    assert round(shape.active / 1e9, 1) == 3.6  # as its model card says
    dense = paper.models["qwen3-0.6b"].shape
    assert dense.active == dense.parameters  # the tied embedding multiplies once, as the output layer


def shape_of(model):
    """The shape of a model in memory, from its configuration."""
    config = model.config.get_text_config()
    gemma, gpt_oss = "gemma" in config.model_type, config.model_type == "gpt_oss"
    language = count(model.get_decoder().parameters())
    head = 0 if config.tie_word_embeddings else count(model.get_output_embeddings().parameters())
    return Shape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=config.num_attention_heads,
        key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocabulary=config.vocab_size,
        tied_embeddings=config.tie_word_embeddings,
        experts=config.num_local_experts if gpt_oss else 0,
        experts_per_token=config.num_experts_per_tok if gpt_oss else 0,
        norms=4 if gemma else 2,
        query_key_norms=gemma or config.model_type == "qwen3",
        biases=gpt_oss,
        sinks=gpt_oss,
        other=count(model.parameters()) - language - head,
    )


@pytest.mark.parametrize("architecture", RECIPES)
def test_tiny_recipes(architecture):
    model, _ = tiny_model(architecture)
    shape = shape_of(model)
    assert shape.parameters == count(model.parameters())
    assert (shape.other > 0) == (architecture == "gemma3_vision")
    targets = ATTENTION if shape.experts else (*ATTENTION, "gate_proj", "up_proj", "down_proj")
    lora = LoraConfig(r=4, target_modules=list(targets), exclude_modules=r".*vision.*" if shape.other else None)
    adapted = get_peft_model(model, lora, autocast_adapter_dtype=False)
    assert shape.trainable(4, targets) == count(p for p in adapted.parameters() if p.requires_grad)
    with torch.inference_mode():
        cache = model(input_ids=torch.zeros((1, 3), dtype=torch.long), use_cache=True).past_key_values
    kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert 3 * shape.cache_bytes("float32") == kept


def test_mistakes_in_a_shape_are_told(paper):
    values = paper.models["gpt-oss-20b"].shape.model_dump()
    with pytest.raises(ValueError, match="does not go with experts"):
        Shape(**(values | {"experts_per_token": 0}))
    with pytest.raises(ValueError, match="must be a multiple of key_value_heads"):
        Shape(**(values | {"heads": 63}))
    with pytest.raises(CftError, match="gate_proj is no linear layer"):
        Shape(**values).trainable(16, ["gate_proj"])
