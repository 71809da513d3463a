"""The two judges of NoveltyBench v1.0: which answers do the same, and how good each one is (arXiv 2605.11845).

The similarity classifier reads [CLS] first [SEP] second [SEP], each answer cut at 128 tokens, and calls them equivalent
when its second class has a probability above 0.102. The reward model reads the conversation in its own chat template,
without a second beginning-of-text token (the authors' released code writes two), and its one output is the raw reward.
Both see the answer without its thinking block.

Source: src/partition.py and src/score.py of novelty-bench/novelty-bench at 1339e15.
"""

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from cft import CftError
from cft.benchmarks import texts_by
from cft.benchmarks.novelty import VERSION, in_order
from cft.models import device, load_tokenizer, location, settings_of
from cft.partition import Pair, partition
from cft.progress import Progress
from cft.provenance import write_table
from cft.text import strip_thinking
from cft.windows import by_length

MAX_TOKENS = 128
THRESHOLD = 0.102
OUTPUTS = {"similarity": 2, "reward": 1}
Row = tuple[int, ...]  # the tokens of one text or pair


def judge(
    draws: pd.DataFrame,
    prompts: pd.DataFrame,
    similarity: Path,
    reward: Path,
    similarity_tokens: int,
    reward_tokens: int,
    out: Path,
    **facts: Any,
) -> None:
    """Write the draws with their classes and rewards to a parquet file, in order of prompt and draw.

    draws                columns prompt_id, draw, text; all of its columns are kept
    prompts              columns prompt_id, split, prompt; the prompts that the draws answer
    similarity, reward   folders of the judges, made by `cft model`; one is in memory at a time
    ..._tokens           tokens of one forward pass, padding included
    facts                what else run.json says

    Adds the columns split, label (class within the prompt, by first appearance), reward (raw) and version. Raises
    CftError when draws or prompts are missing or a judge cannot be loaded, is no such judge, or runs out of memory.
    """
    _check_complete(draws, prompts)
    split = dict(zip(prompts["prompt_id"], prompts["split"], strict=True))
    question = dict(zip(prompts["prompt_id"], prompts["prompt"], strict=True))
    judged = in_order(draws.assign(split=[split[key] for key in draws["prompt_id"]]))
    answers = [strip_thinking(text) for text in judged["text"]]
    said: dict[str, Any] = {"version": VERSION, "device": str(device()), "draws": len(judged)}

    def stage(name: str, folder: Path, tokens: int, work: Callable[["Judge"], list[Any]]) -> list[Any]:
        started = time.monotonic()
        model = Judge(name, folder, tokens)
        found = work(model)
        said[name] = {**model.facts, "seconds": round(time.monotonic() - started, 1)}
        return found

    together = list(texts_by(judged["prompt_id"], answers).values())
    labels = stage("similarity", similarity, similarity_tokens, lambda model: classes(model, together))
    _free()
    conversations = [(question[key], answer) for key, answer in zip(judged["prompt_id"], answers, strict=True)]
    rewards = stage("reward", reward, reward_tokens, lambda model: raw_rewards(model, conversations))
    _free()
    judged["label"] = [label for prompt in labels for label in prompt]
    judged["reward"] = rewards
    write_table(judged.assign(version=VERSION), out, **said, **facts)


def _check_complete(draws: pd.DataFrame, prompts: pd.DataFrame) -> None:
    drawn, asked = set(draws["prompt_id"]), set(prompts["prompt_id"])
    for missing, where, remedy in (
        (drawn - asked, "the prompts", "give the prompts that were drawn from"),
        (asked - drawn, "the draws", "sample again"),
    ):
        if missing:
            raise CftError(f"{len(missing)} prompts are missing from {where}, such as {min(missing)}; {remedy}")


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Judge:
    """A sequence classifier and its tokenizer in memory; `facts` counts what it has done."""

    def __init__(self, name: str, folder: Path, batch_tokens: int):
        self.name, self.folder, self.batch_tokens = name, folder, batch_tokens
        self.settings = settings_of(folder)
        self.tokenizer = load_tokenizer(folder)
        self.model = _load(folder, self.settings.dtype)
        outputs = self.model.config.num_labels
        if outputs != OUTPUTS[name]:
            raise CftError(f"{folder}: {outputs} outputs; a judge of {name} has {OUTPUTS[name]}; name another model")
        # Without its files transformers makes up a tokenizer that knows no word.
        if 2 * len(self.tokenizer) < self.model.config.vocab_size:
            raise CftError(f"{folder}: its tokenizer knows {len(self.tokenizer)} tokens; add the tokenizer's files")
        self.facts: dict[str, Any] = {"source": self.settings.model_dump(), "texts": 0, "distinct": 0, "cut": 0}

    def tokens(self, texts: list[str], limit: int) -> list[Row]:
        """The tokens of each text without special ones, at most `limit`; facts["cut"] counts the longer texts."""
        if not texts:
            return []
        rows = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False).input_ids
        self.facts["cut"] += sum(len(row) > limit for row in rows)
        return [tuple(row[:limit]) for row in rows]

    def logits(self, rows: list[Row]) -> torch.Tensor:
        """[rows, outputs] float32 on the processor: equal rows are computed once, rows of like length together."""
        place = {row: number for number, row in enumerate(dict.fromkeys(rows))}
        distinct = list(place)
        self.facts["texts"] += len(rows)
        self.facts["distinct"] += len(distinct)
        found = torch.empty(len(distinct), self.model.config.num_labels)
        try:
            with Progress(self.name, len(distinct), "texts") as progress:
                for batch in by_length([len(row) for row in distinct], self.batch_tokens):
                    found[batch] = self._forward([distinct[index] for index in batch])
                    progress.update(len(batch))
        except torch.OutOfMemoryError:
            raise CftError(
                f"out of memory with {self.batch_tokens} tokens in one pass: lower judges.{self.name}.batch_tokens"
            )
        if not found.isfinite().all():
            raise CftError(f"{self.folder}: outputs that are no numbers; its weights or its dtype are wrong")
        return found[[place[row] for row in rows]]

    @torch.inference_mode()
    def _forward(self, rows: list[Row]) -> torch.Tensor:
        """Padding is on the right, where no token of a causal model sees it."""
        width = max(map(len, rows))
        padding = self.model.config.pad_token_id
        ids = torch.tensor([[*row, *[padding] * (width - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        where = self.model.device
        return self.model(input_ids=ids.to(where), attention_mask=mask.to(where)).logits.float().cpu()


def _load(folder: Path, dtype: str) -> Any:
    where = location(folder)
    name = where["pretrained_model_name_or_path"]
    try:
        config = AutoConfig.from_pretrained(**where)
        # Gemma 2 caps its attention scores, which the other kernels of transformers leave out without a word.
        kernel = {"attn_implementation": "eager"} if getattr(config, "attn_logit_softcapping", None) else {}
        model, report = AutoModelForSequenceClassification.from_pretrained(
            **where, dtype=getattr(torch, dtype), output_loading_info=True, **kernel
        )
    except (OSError, ValueError) as error:
        raise CftError(f"judge {name}: {str(error).splitlines()[0]}")
    if report["missing_keys"]:
        raise CftError(f"judge {name}: no weights of {min(report['missing_keys'])}; it is not a sequence classifier")
    if model.config.pad_token_id is None:
        raise CftError(f"judge {name}: its config.json has no pad_token_id; name another model")
    model.config.use_cache = False
    return model.eval().to(device())


def classes(model: Judge, prompts: list[list[str]]) -> list[list[int]]:
    """The class of every answer to every prompt; facts["texts"] counts the pairs that the classifier judged."""
    texts = list(dict.fromkeys(answer for answers in prompts for answer in answers))
    tokens = dict(zip(texts, model.tokens(texts, MAX_TOKENS), strict=True))
    start, end = model.tokenizer.cls_token_id, model.tokenizer.sep_token_id
    if start is None or end is None:
        raise CftError(f"{model.folder}: its tokenizer has no cls or sep token; name another model")

    def equivalent(pairs: list[Pair]) -> list[bool]:
        rows = [(start, *tokens[first], end, *tokens[second], end) for first, second in pairs]
        return (model.logits(rows).softmax(-1)[:, 1].double() > THRESHOLD).tolist()

    return partition(prompts, equivalent)


def raw_rewards(model: Judge, conversations: list[Pair]) -> list[float]:
    """The raw reward of each (prompt, answer)."""
    options = model.settings.chat.template_options
    try:
        texts = [
            model.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}],
                tokenize=False,
                **options,
            )
            for prompt, answer in conversations
        ]
    except ValueError:
        raise CftError(f"{model.folder}: its tokenizer has no chat template; name another reward model")
    return model.logits(model.tokens(texts, model.tokenizer.model_max_length))[:, 0].tolist()
