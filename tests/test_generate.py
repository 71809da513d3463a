"""The draws of a job as a file: resume, the adapter check, what is refused."""

import dataclasses
import sys

import pandas as pd
import pytest

from cft import CftError, generate
from cft.benchmark_settings import SamplingSettings
from cft.engines import Job
from cft.engines.transformers import TreeSampler
from cft.generate import plan, sample
from cft.journal import Journal
from cft.lora import add_adapter
from cft.method_settings import FinetuneMethod
from cft.model_settings import ChatSettings, VllmSettings
from cft.models import load_model, load_tokenizer, settings_of

PROMPTS = pd.DataFrame({"prompt_id": ["a", "b", "c"], "prompt": ["give a number", "x", "one random city, please"]})


def draw(model, out, settings, adapter=None, cache_tokens=260, identity=None):
    sample(plan(PROMPTS, settings, 5, model, adapter, cache_tokens, VllmSettings()), identity or {}, out)


def test_a_killed_job_continues_and_its_file_is_the_same(tiny, tmp_path, monkeypatch):
    settings, identity = SamplingSettings(draws=20, max_new_tokens=5), {"model": "m"}
    draw(tiny("llama"), tmp_path / "whole.parquet", settings, identity=identity)
    original, drawn = TreeSampler.draw, []

    def dies(self, requests):
        for number, item in enumerate(original(self, requests)):
            if number == 25 and len(requests) == 60:  # in the middle of a prompt
                raise KeyboardInterrupt
            drawn.append(item.request)
            yield item

    monkeypatch.setattr(TreeSampler, "draw", dies)
    monkeypatch.setattr(generate, "CHUNK_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        draw(tiny("llama"), tmp_path / "killed.parquet", settings, identity=identity)
    assert not (tmp_path / "killed.parquet").exists()
    with open(next(tmp_path.glob(".killed*journal")), "a") as journal:
        journal.write('{"prompt_id": "b", "draw": 3, "te')  # a line that the kill cut short
    draw(tiny("llama"), tmp_path / "killed.parquet", settings, identity=identity)
    assert len(drawn) == len({(request.prompt_id, request.draw) for request in drawn}) == 60
    assert (tmp_path / "killed.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not list(tmp_path.glob(".*"))
    frame = pd.read_parquet(tmp_path / "whole.parquet")
    assert list(frame.columns) == ["model", "prompt_id", "draw", "text", "tokens", "finished"]
    assert frame.groupby("prompt_id", sort=False)["draw"].apply(list).tolist() == [list(range(20))] * 3


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"first training")
    return folder


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"prompts": {"a": [1, 2, 4]}},
        {"settings": SamplingSettings(engine="vllm", draws=3, max_new_tokens=4, temperature=0.5)},
        {"vllm": VllmSettings(adapter="merge")},
        {"adapter": "trained again"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_journal_of_another_job_is_not_continued(tiny, tmp_path, adapter, change):
    settings, out = SamplingSettings(engine="vllm", draws=3, max_new_tokens=4), tmp_path / "out.parquet"
    job = Job(tiny("llama"), adapter, None, {"a": [1, 2, 3]}, [2], settings, 1, 100, VllmSettings())

    def kept(job):
        return len(Journal(out, generate._header(job, {"method": "soft"}), ("prompt_id", "draw"), "draws").done)

    journal = Journal(out, generate._header(job, {"method": "soft"}), ("prompt_id", "draw"), "draws")
    journal.add([{"prompt_id": "a", "draw": 0, "text": "1"}])
    assert kept(job) == 1
    if "adapter" in change:
        (adapter / "adapter_model.safetensors").write_bytes(b"second training")
        assert kept(job) == 0
    else:
        # Memory may be lowered after a failure.
        assert kept(dataclasses.replace(job, vllm=VllmSettings(memory=0.5, tensor_parallel=2), cache_tokens=50)) == 1
        assert kept(dataclasses.replace(job, **change)) == 0


def test_the_tree_sampler_does_not_depend_on_vllm(tiny):
    job = Job(
        tiny("llama"), None, None, {"a": [1]}, [2], SamplingSettings(draws=1, max_new_tokens=1), 1, 9, VllmSettings()
    )
    other = dataclasses.replace(job, vllm=VllmSettings(memory=0.5))
    assert generate._header(job, {}) == generate._header(other, {})


def test_a_stop_string_ends_a_draw_before_it(tiny, tmp_path):
    """The draws are those without the stop string, cut at its first place; only a cut at the limit is unfinished."""
    plain, stopped = (tmp_path / name for name in ("plain.parquet", "stopped.parquet"))
    draw(tiny("llama"), plain, SamplingSettings(draws=40, max_new_tokens=12))
    texts = pd.read_parquet(plain)
    common = texts["text"].str.cat().replace("\ufffd", "")
    stop = max(set(common), key=common.count)
    draw(tiny("llama"), stopped, SamplingSettings(draws=40, max_new_tokens=12, stop=[stop, "\n\n"]))
    cut = pd.read_parquet(stopped)
    assert cut["text"].tolist() == [text.split(stop)[0] for text in texts["text"]]
    has = texts["text"].str.contains(stop, regex=False)
    assert 0 < has.sum() < len(texts)
    assert (cut["finished"] == (texts["finished"] | has)).all()
    assert (cut["tokens"][has] <= texts["tokens"][has]).all() and (cut["tokens"][~has] == texts["tokens"][~has]).all()


def test_an_adapter_that_changes_nothing_is_an_error(tiny, tmp_path):
    method = FinetuneMethod.model_validate(
        {"kind": "finetune", "labels": "law", "average": "value", "max_bins": 9, "epochs": 1, "draws": 1}
    )
    adapter, out, settings = (
        tmp_path / "untrained",
        tmp_path / "out.parquet",
        SamplingSettings(draws=1, max_new_tokens=2),
    )
    add_adapter(load_model(tiny("llama")), method.lora).save_pretrained(adapter, save_embedding_layers=False)
    with pytest.raises(CftError, match="untrained or not active"):
        draw(tiny("llama"), out, settings, adapter)
    with pytest.raises(CftError, match="trained for another one"):
        draw(tiny("gemma3"), out, settings, adapter)
    (adapter / "adapter_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(CftError, match="cannot be read"):
        draw(tiny("llama"), out, settings, adapter)
    assert not out.exists()


def test_draws_of_nothing(tiny):
    with pytest.raises(CftError, match="no prompts"):
        plan(PROMPTS.head(0), SamplingSettings(draws=1, max_new_tokens=1), 0, tiny("llama"), None, 10, VllmSettings())


def test_an_instruction_and_thinking_change_the_prompts(tiny, monkeypatch):
    """A thinking model gets its own options, and no answer is opened for it."""
    chat = {"template_options": {"mood": "calm"}, "answer_prefix": "final: ", "thinking_options": {"mood": "deep"}}
    source = settings_of(tiny("llama")).model_copy(update={"chat": ChatSettings.model_validate(chat)})
    tokenizer = load_tokenizer(tiny("llama"))
    tokenizer.chat_template = "{{ mood }}:" + tokenizer.chat_template
    monkeypatch.setattr(generate, "settings_of", lambda folder: source)
    monkeypatch.setattr(generate, "load_tokenizer", lambda folder: tokenizer)
    settings = SamplingSettings(draws=1, max_new_tokens=1)

    def prompt(**how):
        job = plan(PROMPTS.head(1), settings, 0, tiny("llama"), None, 10, VllmSettings(), **how)
        assert job.stops == [tokenizer.convert_tokens_to_ids("<|im_end|>")]
        return tokenizer.decode(job.prompts["a"])

    asked = "<|im_start|>user\ngive a number<|im_end|>\n<|im_start|>assistant\n"
    told = "<|im_start|>system\nBe random.<|im_end|>\n"
    assert prompt() == f"calm:{asked}final: "
    assert prompt(instruction="Be random.") == f"calm:{told}{asked}final: "
    assert prompt(instruction="Be random.", thinking=True) == f"deep:{told}{asked}"


def test_a_journal_under_another_instruction_is_not_continued(tiny):
    settings = SamplingSettings(draws=1, max_new_tokens=1)
    headers = [
        generate._header(plan(PROMPTS, settings, 0, tiny("llama"), None, 10, VllmSettings(), instruction), {})
        for instruction in (None, "Be random.", "Be very random.")
    ]
    assert len({header["prompts"] for header in headers}) == 3


def test_vllm_that_is_not_installed(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setitem(sys.modules, "vllm.platforms", None)
    with pytest.raises(CftError, match=r"engine vllm cannot be imported .*: use the sampling image .* or set"):
        draw(tiny("llama"), tmp_path / "out.parquet", SamplingSettings(engine="vllm", draws=1, max_new_tokens=1))


def test_the_same_file_whatever_the_cache(tiny, tmp_path):
    """Prompts share batches or are split into many: the same draws, every draw once."""
    settings = SamplingSettings(draws=50, max_new_tokens=4)
    for cache_tokens in (50, 400, 100_000):
        draw(tiny("llama"), tmp_path / f"{cache_tokens}.parquet", settings, cache_tokens=cache_tokens)
    files = [file.read_bytes() for file in tmp_path.glob("*.parquet")]
    assert len(files) == 3 and len(set(files)) == 1
