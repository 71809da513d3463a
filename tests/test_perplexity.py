"""Perplexity: windows, sums against one window at a time, batches, resume, what is refused."""

import gzip
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from cft import CftError, perplexity
from cft.assets import Assets
from cft.benchmark_settings import PalomaBenchmark
from cft.corpus import write_corpus, write_documents
from cft.models import load_model, load_tokenizer
from cft.perplexity import measure, nats_by_document, nats_of
from cft.windows import Piece, batches, pieces_of, windows

ARCHITECTURES = ["llama", "qwen3", "gemma3", "gpt_oss"]
SETTINGS = PalomaBenchmark(data="generated", slices=["ptb", "mc4"], context=48, stride=24)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paloma") / "corpus"
    write_corpus(SETTINGS, Assets({}, None, folder), folder)
    return folder


def run(model, corpus, out, settings=SETTINGS, window_tokens=200, adapter=None):
    measure(settings, corpus, model, adapter, window_tokens, {"model": "m", "seed": 11}, out)
    return pd.read_parquet(out)


def random_pieces(lengths, seed=0):
    generator = np.random.default_rng(seed)
    settings = PalomaBenchmark(context=48, stride=24)
    tokens = [generator.integers(3, 250, length) for length in lengths]
    return [piece for number, some in enumerate(tokens) for piece in pieces_of(number, some, settings)]


@torch.inference_mode()
def one_by_one(model, pieces):
    nats: dict[int, float] = {}
    for piece in pieces:
        law = model(torch.from_numpy(piece.tokens)[None]).logits[0].double().log_softmax(-1)
        found = -sum(float(law[place - 1, piece.tokens[place]]) for place in piece.scored)
        nats[piece.document] = nats.get(piece.document, 0.0) + found
    return nats


def test_golden_windows(golden_rows):
    rows = golden_rows("windows")
    assert len(rows) >= 7
    for row in rows:
        found = windows(row["num_tokens"], row["context_length"], row["stride"], row["max_scored_tokens"])
        assert [
            {"first": window.first, "length": window.length, "scored": list(window.scored)} for window in found
        ] == row["windows"]
        assert sum(len(window.scored) for window in found) == row["total_scored"]


@pytest.mark.parametrize("stride", [1, 5, 8])
def test_every_token_but_the_first_is_scored_once(stride):
    for length in range(40):
        scored = [place for window in windows(length, 8, stride) for place in window.scored]
        # Where windows only touch, the first token of each has no context.
        assert scored == [place for place in range(length) if place and (stride < 8 or place % 8)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sums_are_those_of_one_window_at_a_time(tiny, architecture):
    model = load_model(tiny(architecture))
    pieces = random_pieces([150, 2, 30, 49, 7, 48, 90, 3])
    expected = one_by_one(model, pieces)
    for window_tokens in (1, 100, 10_000):
        found = nats_by_document(model, pieces, window_tokens, "test")
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_does_not_leak(tiny, architecture):
    """A short window gives the same sum alone and beside windows of other lengths and contents."""
    model = load_model(tiny(architecture))
    short = Piece(0, np.array([50, 60, 70, 80]), range(1, 4))
    alone = nats_of(model, [short])[0]
    for seed in range(3):
        beside = nats_of(model, [*random_pieces([48, 20], seed), short])[-1]
        assert beside == pytest.approx(alone, rel=1e-6)


def test_batches_keep_to_the_budget_and_hold_each_window_once():
    pieces = random_pieces(np.random.default_rng(1).integers(2, 200, 60))
    for budget in (10, 48, 300):
        cut = list(batches(pieces, budget))
        assert sorted(map(id, pieces)) == sorted(id(piece) for batch in cut for piece in batch)
        for batch in cut:
            assert len(batch) == 1 or len(batch) * max(len(piece.tokens) for piece in batch) <= budget
    assert len(cut) < len(pieces) / 4


class Uniform(torch.nn.Module):
    """A model whose next-token law is uniform, and which records how many logits it computed at once."""

    device, vocabulary = torch.device("cpu"), 259

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(4, self.vocabulary, bias=False)
        torch.nn.init.zeros_(self.head.weight)
        self.most = 0
        self.head.register_forward_hook(lambda module, inputs, output: self.see(output.numel()))

    def see(self, logits):
        self.most = max(self.most, logits)

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask, use_cache):
        return SimpleNamespace(logits=self.head(torch.ones(*input_ids.shape, 4)))


@pytest.fixture
def uniform(monkeypatch):
    model = Uniform()
    monkeypatch.setattr(perplexity, "load_for_evaluation", lambda folder, adapter, probe: (model, {"device": "cpu"}))
    return model


def test_uniform_law_in_closed_form(tiny, corpus, tmp_path, uniform, monkeypatch):
    """The tiny tokenizer has a token per byte: log(259) nats for each byte of a document but its first."""
    monkeypatch.setitem(perplexity.CHUNK_LOGITS, "cpu", 3 * 259)
    frame = run(tiny("llama"), corpus, tmp_path / "out.parquet")
    assert list(frame.columns) == ["model", "seed", "split", "file", "document", "tokens", "nats", "bytes"]
    assert frame["split"].unique().tolist() == ["ptb", "mc4"] and frame["file"].nunique() == 3
    empty = frame["bytes"] == 0
    assert empty.sum() == 3 and (frame["tokens"][empty] == 0).all() and (frame["nats"][empty] == 0).all()
    assert (frame["tokens"][~empty] == frame["bytes"][~empty] - 1).all() and frame["tokens"].max() > 2 * 48
    assert np.allclose(frame["nats"], frame["tokens"] * math.log(259), rtol=1e-6)
    assert uniform.most == 3 * 259
    facts = json.loads((tmp_path / "out.run.json").read_text())
    assert facts["measured"]["tokens"] == frame["tokens"].sum() and facts["measured"]["windows"] > len(frame)
    assert facts["measured"]["tokens_per_s"] > 0 and facts["benchmark"]["context"] == 48


def test_the_rows_are_those_of_one_window_at_a_time(tiny, corpus, tmp_path):
    """From gzip to parquet: every document of a file by its line, whatever the size of a batch and of a buffer."""
    frame = run(tiny("gemma3"), corpus, tmp_path / "out.parquet")
    model, tokenizer = load_model(tiny("gemma3")), load_tokenizer(tiny("gemma3"))
    for row in frame.itertuples():
        lines = gzip.decompress((corpus / row.file).read_bytes()).decode().splitlines()
        text = json.loads(lines[row.document - 1])["text"]
        pieces = pieces_of(0, np.array(tokenizer.encode(text, add_special_tokens=False), np.int64), SETTINGS)
        assert row.nats == pytest.approx(one_by_one(model, pieces).get(0, 0.0), rel=1e-5)
        assert row.bytes == len(text.encode())


def test_documents_of_white_space_of_one_token_and_many_buffers(tiny, tmp_path, uniform, monkeypatch):
    monkeypatch.setattr("cft.windows.BUFFER_TOKENS", 50)
    texts = [" \n\t", "x", "", *("y" * length for length in (2, 60, 3, 40, 40, 5))]
    write_documents(tmp_path / "texts/own/test/a.jsonl.gz", texts)
    settings = PalomaBenchmark(data=str(tmp_path / "texts"), slices=["own"], context=48, stride=24)
    write_corpus(settings, Assets({}, None, tmp_path), tmp_path / "corpus")
    frame = run(tiny("llama"), tmp_path / "corpus", tmp_path / "out.parquet", settings)
    assert frame["document"].tolist() == list(range(1, 10))
    assert frame["bytes"].tolist() == [0, 1, 0, 2, 60, 3, 40, 40, 5]
    assert frame["tokens"].tolist() == [0, 0, 0, 1, 59, 2, 39, 39, 4]
    limited = settings.model_copy(update={"limit": 4})
    assert len(run(tiny("llama"), tmp_path / "corpus", tmp_path / "limited.parquet", limited)) == 4


def test_a_killed_job_continues_after_the_last_finished_file(tiny, corpus, tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole.parquet", tmp_path / "killed.parquet"
    run(tiny("llama"), corpus, whole)
    original, measured = perplexity.documents, []

    def dies(path, limit):
        measured.append(path)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return original(path, limit)

    monkeypatch.setattr(perplexity, "documents", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tiny("llama"), corpus, killed)
    assert not killed.exists()
    with open(next(tmp_path.glob(".killed*journal")), "a") as journal:
        # A line that the kill cut short.
        journal.write('{"split": "ptb", "file": "ptb/test/test_1.jsonl.gz", "documents": [[1, 2')
    run(tiny("llama"), corpus, killed, window_tokens=200)
    assert measured[1] == measured[2] and len(measured) == 4  # the first file was not read again
    assert killed.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_a_mended_text_alone_is_measured_again(tiny, tmp_path, monkeypatch):
    good, bad = tmp_path / "texts/ptb/test/a.jsonl.gz", tmp_path / "texts/ptb/test/b.jsonl.gz"
    settings = PalomaBenchmark(data=str(tmp_path / "texts"), slices=["ptb"], context=48, stride=24)

    def measured():
        write_corpus(settings, Assets({}, None, tmp_path), tmp_path / "corpus")
        return run(tiny("llama"), tmp_path / "corpus", tmp_path / "out.parquet", settings)

    write_documents(good, ["fine"])
    bad.write_bytes(gzip.compress(b'{"text": null}\n'))
    with pytest.raises(CftError, match=r"b\.jsonl\.gz: line 1"):
        measured()
    write_documents(bad, ["mended"])
    read, original = [], perplexity.documents
    monkeypatch.setattr(perplexity, "documents", lambda path, limit: read.append(path.name) or original(path, limit))
    assert measured()["bytes"].tolist() == [4, 6] and read == [bad.name]


def test_probabilities_that_are_no_numbers_are_refused(tiny, corpus, tmp_path, uniform):
    torch.nn.init.constant_(uniform.head.weight, math.nan)
    with pytest.raises(CftError, match="perplexity, file 1 of 3: probabilities that are no numbers"):
        run(tiny("llama"), corpus, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("change", ["settings", "corpus", "model", "adapter", "identity"])
def test_the_journal_of_another_job_is_not_continued(tiny, corpus, tmp_path, change):
    adapter, out = tmp_path / "adapter", tmp_path / "out.parquet"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"first training")

    def journal(**changed):
        job = {
            "settings": SETTINGS,
            "texts": perplexity.read_corpus(corpus),
            "model": tiny("llama"),
            "adapter": adapter,
            "identity": {},
        }
        return perplexity.Journal(out, perplexity._header(**(job | changed)), ("split", "file"), "files")

    journal().add([{"split": "ptb", "file": "a", "documents": []}])
    assert list(journal().done) == [("ptb", "a")]
    other = {
        "settings": {"settings": SETTINGS.model_copy(update={"stride": 12})},
        "corpus": {"texts": perplexity.Corpus(tmp_path, perplexity.read_corpus(corpus).slices)},
        "model": {"model": tiny("qwen3")},
        "adapter": {},
        "identity": {"identity": {"seed": 12}},
    }[change]
    if change == "adapter":
        (adapter / "adapter_model.safetensors").write_bytes(b"second training")
    assert not journal(**other).done


def test_a_bad_text_is_named_and_leaves_no_result(tiny, corpus, tmp_path, uniform):
    good, bad = tmp_path / "texts/ptb/test/a.jsonl.gz", tmp_path / "texts/ptb/test/b.jsonl.gz"
    write_documents(good, ["fine"])
    bad.write_bytes(gzip.compress(b'{"text": "a"}\n{"text": null}\n'))
    settings = PalomaBenchmark(data=str(tmp_path / "texts"), slices=["ptb"], context=48, stride=24)
    write_corpus(settings, Assets({}, None, tmp_path), tmp_path / "corpus")
    with pytest.raises(CftError, match=r"b\.jsonl\.gz: line 2 has no string text"):
        run(tiny("llama"), tmp_path / "corpus", tmp_path / "out.parquet", settings)
    assert not (tmp_path / "out.parquet").exists()


def test_too_little_memory_names_the_setting(tiny, corpus, tmp_path, uniform, monkeypatch):
    def full(*arguments, **keywords):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Uniform, "forward", full)
    with pytest.raises(CftError, match=r"out of memory with 200 tokens .*: lower the model's window_tokens$"):
        run(tiny("llama"), corpus, tmp_path / "out.parquet")


def test_a_model_that_changes_its_logits_is_refused(tiny):
    """A soft cap after the output layer is not in our logits."""
    model = load_model(tiny("gemma3"))
    model.config.final_logit_softcapping = 1.0
    with pytest.raises(CftError, match="Gemma3ForCausalLM changes its logits after the output layer"):
        nats_of(model, random_pieces([9]))


def test_an_adapter_of_another_model_is_refused(tiny, corpus, tmp_path):
    with pytest.raises(CftError, match="cannot be read"):
        run(tiny("llama"), corpus, tmp_path / "out.parquet", adapter=Path(tmp_path / "no_adapter"))
