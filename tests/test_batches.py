"""The losses against the authors' code, and packed slots against whole sequences."""

from functools import partial

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, MistralConfig

from cft import CftError, attention, batches, chat
from cft.attention import mask, use_blocks
from cft.batches import Batches, batch_loss
from cft.data import write_data
from cft.loss import FLOOR, law_loss
from cft.method_settings import FinetuneMethod
from cft.model_settings import ChatSettings
from cft.models import load_model, load_tokenizer
from cft.packed import pack


def test_golden_soft_losses(golden_rows):
    for row in golden_rows("soft_loss"):
        logits = torch.tensor(row["logits"], dtype=torch.float64)
        sizes = [len(ids) for ids in row["next_ids"]]
        place = torch.arange(len(sizes))
        entries = place.repeat_interleave(torch.tensor(sizes))
        token = torch.tensor([i for ids in row["next_ids"] for i in ids])
        law = torch.tensor([p for law in row["next_probs"] for p in law], dtype=torch.float64)
        assert row["epsilon"] == FLOOR
        for step, wanted in enumerate(row["step_losses"]):
            weight = torch.zeros(len(sizes), dtype=torch.float64)
            weight[step] = 1
            found = law_loss(logits, place, entries, token, law, weight, row["tau"])
            assert float(found) == pytest.approx(wanted, rel=1e-9)
        mean = torch.full((len(sizes),), 1 / len(sizes), dtype=torch.float64)
        found = law_loss(logits, place, entries, token, law, mean, row["tau"])
        assert float(found) == pytest.approx(row["loss"], rel=1e-9)


def test_golden_hard_losses(golden_rows):
    for row in golden_rows("hard_loss"):
        logits, labels = torch.tensor(row["logits"], dtype=torch.float64)[:, :-1], torch.tensor(row["labels"])[:, 1:]
        rows, label = logits[labels != -100], labels[labels != -100]
        count, every = len(label), torch.arange(len(label))
        law, weight = torch.ones(count, dtype=torch.float64), torch.full((count,), 1 / count, dtype=torch.float64)
        assert float(law_loss(rows, every, every, label, law, weight)) == pytest.approx(row["loss"], rel=1e-6)


SETTINGS = {
    "kind": "finetune",
    "decimals": 2,
    "max_bins": 101,
    "epochs": 1,
    "draws": 4,
    "batch_size": 12,
    "max_steps": 2,
}
SOFT = FinetuneMethod.model_validate(SETTINGS | {"labels": "law", "average": "value", "temperature": 0.8})
MIXED = FinetuneMethod.model_validate(SETTINGS | {"labels": "mixed", "average": "value", "law_weight": 0.3})
HARD = FinetuneMethod.model_validate(SETTINGS | {"labels": "draw", "average": "token", "draws_per_prompt": 4})


@pytest.fixture(scope="module", params=[SOFT, HARD, MIXED], ids=["soft", "hard", "mixed"])
def run(request, families, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_data(families, request.param, 7, folder)
    return request.param, folder


def naive_loss(model, tokenizer, data, method, step):
    """Every value with its own copy of the prompt, all logits computed, the loss written out token by token."""
    terms = []
    for prompt_id, value in data.steps[step]:
        prompt = chat.prompt_tokens(tokenizer, data.prompts.at[prompt_id, "prompt"], ChatSettings())
        tokens, laws = data._labels(prompt_id, value)
        logits = model(torch.tensor([[*prompt, *tokens.tolist()]])).logits[0]
        if logits.dtype != torch.float64:
            logits = logits.float()
        losses = []
        for position, (ids, law) in enumerate(laws):
            log_model = (logits[len(prompt) - 1 + position] / method.temperature).log_softmax(-1)[ids]
            q = torch.tensor(np.maximum(law, FLOOR)).to(logits.dtype)
            q = q / q.sum()
            losses.append((q * (q.log() - log_model)).sum())
        terms.append(torch.stack(losses))
    if method.average == "value":
        return torch.stack([term.mean() for term in terms]).mean()
    return torch.cat(terms).mean()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    ("architecture", "dtype", "tolerance"),
    [
        ("llama", "float64", 1e-6),
        ("qwen3", "float64", 1e-6),
        ("gemma3", "float64", 1e-6),
        ("gemma3_vision", "float64", 1e-6),
        ("gpt_oss", "float32", 1e-5),
    ],
)
@pytest.mark.parametrize(
    ("micro", "block", "kept"), [(5, 9999, 9999), (12, 9999, 9999), (12, 80, 9999), (12, 7, 9999), (12, 80, 0)]
)
def test_packed_slots_equal_whole_sequences(tiny, run, monkeypatch, architecture, dtype, tolerance, micro, block, kept):
    """Loss and gradients: in one block and in several, which are kept or not, and with windows shorter than prompts."""
    method, folder = run
    monkeypatch.setattr(attention, "KEPT", kept)
    monkeypatch.setattr(batches, "pack", partial(pack, block=block))
    model, tokenizer = load_model(tiny(architecture, dtype)), load_tokenizer(tiny(architecture, dtype))
    lora = LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], init_lora_weights=False)
    model = get_peft_model(model, lora, autocast_adapter_dtype=False)
    data = Batches(folder, tokenizer, ChatSettings(), method, micro)
    micros = data[1]
    assert len(micros) == -(-12 // micro)
    assert (len(micros[0]["keys"]) > 1) == (block < 9999)
    packed = torch.stack([batch_loss(model, part, method.temperature) for part in micros]).sum()
    gradient = gradients(model, packed)
    naive = naive_loss(model, tokenizer, data, method, 1)
    naive_gradient = gradients(model, naive)
    assert packed.item() == pytest.approx(naive.item(), rel=tolerance)
    assert float((gradient - naive_gradient).norm() / naive_gradient.norm()) < tolerance


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("block", [99, 4])
def test_a_window_that_holds_for_all_layers(window, block):
    """Mistral's: its configuration names no kinds of layers."""
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = MistralConfig(vocab_size=50, num_hidden_layers=3, sliding_window=window, **sizes)
    assert getattr(config, "layer_types", None) is None
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    sequences = [[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 8, 9], [1, 2, 10, 11, 12, 13]]
    use_blocks(model)
    tokens, position, keys, seen = map(torch.from_numpy, (packed := pack(sequences, block))[:4])
    given = {"attention_mask": mask(model, seen, keys, position), "position_ids": position[None], "blocks": keys}
    found = model(tokens[None], **given).logits
    for sequence, slots in zip(sequences, packed.slots, strict=True):
        torch.testing.assert_close(found[0, slots], model(torch.tensor([sequence])).logits[0])


def test_mixed_labels_are_the_weighted_sum_of_both(tiny, families, tmp_path):
    """Cross-entropy is linear in the label: the gradient is that of the soft and of the hard loss, by weight."""
    found = {}
    for name, weight in (("law", 0.0), ("mixed", 0.3), ("draw", 0.0)):
        settings = SETTINGS | {"labels": name, "average": "value"} | ({"law_weight": weight} if weight else {})
        method = FinetuneMethod.model_validate(settings)
        write_data(families, method, 7, tmp_path / name)
        model, tokenizer = load_model(tiny("llama", "float64")), load_tokenizer(tiny("llama"))
        (micro,) = Batches(tmp_path / name, tokenizer, ChatSettings(), method, 12)[0]
        found[name] = gradients(model, batch_loss(model, micro))
    wanted = 0.3 * found["law"] + 0.7 * found["draw"]
    assert float((found["mixed"] - wanted).norm() / wanted.norm()) < 1e-4  # labels are floored at 1e-8


def test_labels_that_nobody_knows_are_not_taken_for_laws(tiny, run):
    method, folder = run
    data = Batches(
        folder, load_tokenizer(tiny("llama")), ChatSettings(), method.model_copy(update={"labels": "flat"}), 12
    )
    with pytest.raises(AssertionError, match="'flat'"):
        data[0]


def test_logits_are_computed_once_for_each_labelled_prefix(tiny, run):
    method, folder = run
    model, tokenizer = load_model(tiny("llama")), load_tokenizer(tiny("llama"))
    data = Batches(folder, tokenizer, ChatSettings(), method, 12)
    computed = []
    handle = model.get_output_embeddings().register_forward_hook(
        lambda m, i, output: computed.append(output[0].shape[:-1].numel())
    )
    batch_loss(model, data[0][0])
    handle.remove()
    prefixes = {
        (prompt_id, tuple(tokens[:length].tolist()))
        for prompt_id, value in data.steps[0]
        for tokens in [data._labels(prompt_id, value)[0]]
        for length in range(len(tokens))
    }
    assert computed == [len(prefixes)]


def test_a_value_that_merges_with_the_prompt_is_refused(tiny, run):
    method, folder = run
    tokenizer = load_tokenizer(tiny("llama"))
    tokenizer.add_tokens(["\n-", *(f"\n{digit}" for digit in range(10))])
    with pytest.raises(Exception, match="merges the value"):
        Batches(folder, tokenizer, ChatSettings(), method, 12)


def test_a_kind_of_layer_that_is_not_known_is_named(tiny, run):
    model, tokenizer = load_model(tiny("llama")), load_tokenizer(tiny("llama"))
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(CftError, match="layers of the kind linear_attention"):
        batch_loss(model, Batches(run[1], tokenizer, ChatSettings(), run[0], 12)[0][0])


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt_oss"])
def test_a_model_that_was_trained_answers_as_before(tiny, run, architecture):
    """Blocks are for those who ask for them: sampling and perplexity get the model's own attention."""
    model, tokenizer = load_model(tiny(architecture)), load_tokenizer(tiny(architecture))
    tokens = torch.arange(1, 13).reshape(2, 6)
    padding = torch.tensor([[0, 1, 1, 1, 1, 1], [1] * 6])
    with torch.no_grad():
        before = [model(tokens).logits, model(tokens, attention_mask=padding).logits]
        batch_loss(model, Batches(run[1], tokenizer, ChatSettings(), run[0], 12)[0][0])
        after = [model(tokens).logits, model(tokens, attention_mask=padding).logits]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_an_attention_that_is_not_known_is_named(tiny, run):
    model, tokenizer = load_model(tiny("llama")), load_tokenizer(tiny("llama"))
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(CftError, match="the attention flash_attention_2 cannot be trained yet"):
        batch_loss(model, Batches(run[1], tokenizer, ChatSettings(), run[0], 12)[0][0])


def test_a_bias_of_the_scores_is_refused(tiny, run, monkeypatch):
    """Our product would leave it out."""
    model, tokenizer = load_model(tiny("llama")), load_tokenizer(tiny("llama"))
    (micro,) = Batches(run[1], tokenizer, ChatSettings(), run[0], 12)[0]
    monkeypatch.setattr(model, "forward", partial(model.forward, position_bias=torch.zeros(1)))
    with pytest.raises(CftError, match="LlamaAttention adds a bias to its scores"):
        batch_loss(model, micro)
