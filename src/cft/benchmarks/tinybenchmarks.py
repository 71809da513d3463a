"""tinyBenchmarks: what an adapter costs on five tasks of 100 items each (arXiv 2605.11845).

Data    tinyMMLU, tinyHellaswag, tinyTruthfulQA, tinyWinogrande, tinyGSM8k of huggingface.co/tinyBenchmarks: the text in
        input_formatted, its examples included, is what the user says. As an extension the whole of GSM8K (test), asked
        after its first five training questions, and IFEval. Or a few items of the same form that we make up
Metric  per item 0 or 1, for TruthfulQA mc2: the share that the true answers have in the probability of all. Per task
        the mean, and p-IRT and gp-IRT estimates of the score on the whole benchmark (irt.py)
Source  arXiv 2402.14992; arXiv 2311.07911 (IFEval); golden/gsm8k.jsonl

Odd cases. An answer begins where the assistant's turn does: "A", as lm-eval has it, not " A" as in the authors' code.
HellaSwag's likelihood is divided by the number of characters. Winogrande's two contexts end with one option each, and
the rest of the sentence is compared (Trinh and Le 2018). The truth labels of TruthfulQA are used; lm-eval takes all up
to the first false answer as true. GSM8K is read as by the authors: strict is the only number after the first "####",
flexible the last number; thinking is removed first. Item i of a task is the i-th seen item of the parameters, as
upstream; there are no estimates where items were left out.
"""

import json
import re
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from cft import CftError
from cft.assets import Assets
from cft.benchmark_settings import TinyBenchmarks
from cft.benchmarks import jsonable, tidy
from cft.distributions import Registry
from cft.irt import bank_of, estimates, table
from cft.task_items import MADE_UP, Row, made_up, made_up_parameters, upstream
from cft.text import strip_thinking

COLUMNS = ("prompt_id", "split", "metric", "value", "text", "gold")
BENCHMARK_OF = {"mmlu": "mmlu", "hellaswag": "lb", "truthfulqa": "lb", "winogrande": "lb", "gsm8k": "lb"}
EXTENSION = ("gsm8k_full", "ifeval")
WRITTEN = ("strict", "flexible")  # the two ways to read a number out of a text
ONLY_METRIC = ("acc", "acc_norm", "mc2")  # of their tasks; others name a split of their own
ALL = "all"
SHOTS = 5
NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")


def prompts(settings: TinyBenchmarks, registry: Registry, assets: Assets) -> pd.DataFrame:
    """Columns prompt_id (mmlu/0, …), split (the task), prompt (what the user says), row (JSON: what scoring needs).

    row holds, by task: choices and answer (its place); labels of the choices; contexts, continuation and answer (the
    place of the right context); answer (a number as text); key, instruction_id_list and kwargs (as JSON).
    Raises CftError when a data set cannot be fetched or read.
    """
    rows = []
    for task in [*BENCHMARK_OF, *(EXTENSION if settings.extended else ())]:
        for number, row in enumerate(_rows(task, settings, assets)[: settings.limit]):
            try:
                prompt, facts = _READERS[task](row)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise CftError(f"{task}, item {number}: not in the form of its data set ({error!r}); get it again")
            rows.append((f"{task}/{number}", task, prompt, json.dumps(facts)))
    return pd.DataFrame(rows, columns=["prompt_id", "split", "prompt", "row"])


def _rows(task: str, settings: TinyBenchmarks, assets: Assets) -> list[Row]:
    def read(name: str) -> list[Row]:
        return upstream(name, assets) if settings.data == "upstream" else made_up(name)

    rows = read(task)
    if task == "gsm8k_full":
        examples = "".join(
            f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in read("gsm8k_examples")[:SHOTS]
        )
        return [{**row, "input_formatted": f"{examples}Question: {row['question']}\nAnswer:"} for row in rows]
    return rows


def _letters(row: Row) -> tuple[str, Row]:
    letters = list("ABCDEFGHIJ"[: len(row["choices"])])
    return row["input_formatted"], {"choices": letters, "answer": _place(row["answer"], letters)}


def _place(answer: Any, choices: list[str]) -> int:
    return range(len(choices))[int(answer)]


def _endings(row: Row) -> tuple[str, Row]:
    choices = list(map(_clean, row["endings"]))
    return row["input_formatted"], {"choices": choices, "answer": _place(row["label"], choices)}


def _clean(ending: str) -> str:
    """A HellaSwag ending without the marks of the web pages that it was taken from, as lm-eval has it."""
    return re.sub(r"\[.*?\]", "", ending.strip().replace(" [title]", ". ")).replace("  ", " ")


def _answers(row: Row) -> tuple[str, Row]:
    choices, labels = (list(row["mc2_targets"][key]) for key in ("choices", "labels"))
    return row["input_formatted"], {"choices": choices, "labels": labels, "answer": labels.index(1)}


def _contexts(row: Row) -> tuple[str, Row]:
    options = [row["option1"], row["option2"]]
    place = ["1", "2"].index(row["answer"])
    before, right = row["input_formatted"].removesuffix(options[place]), options[place]
    if before + right != row["input_formatted"]:
        raise ValueError(f"the prompt does not end with {right!r}")
    continuation = row["sentence"].split("_", 1)[1].strip()
    return row["input_formatted"], {
        "contexts": [before + option for option in options], "continuation": continuation, "answer": place
    }  # fmt: skip


def _number(row: Row) -> tuple[str, Row]:
    return row["input_formatted"], {"answer": row["answer"].split("####", 1)[1].strip()}


def _instructions(row: Row) -> tuple[str, Row]:
    given = [{key: value for key, value in some.items() if value is not None} for some in row["kwargs"]]
    facts = {"key": row["key"], "instruction_id_list": row["instruction_id_list"], "kwargs": json.dumps(given)}
    return row["prompt"], facts


_READERS = {
    "mmlu": _letters,
    "hellaswag": _endings,
    "truthfulqa": _answers,
    "winogrande": _contexts,
    "gsm8k": _number,
    "gsm8k_full": _number,
    "ifeval": _instructions,
}


def strict_number(text: str) -> str | None:
    """The number after the first "####", in plain form ("1234.5"); None where there is none, or another beside it."""
    marked = re.search(r"####\s*([^\r\n]+)", text)
    found = NUMBER.findall(marked[1]) if marked else []
    return plain(found[0]) if len(found) == 1 else None


def flexible_number(text: str) -> str | None:
    """The last number in a text, in plain form; None where there is none."""
    found = NUMBER.findall(text)
    return plain(found[-1]) if found else None


def plain(number: str) -> str:
    """A number as text without thousands' commas, trailing zeros or an exponent: the same for equal numbers."""
    return format(Decimal(number.replace(",", "")).normalize() + 0, "f")


def gsm8k(doc: Row, results: list[str]) -> dict[str, float]:
    """What lm-eval records of an answer to a GSM8K question: whether it is right under both ways to read it."""
    text, gold = strip_thinking(results[0]), plain(doc["answer"])
    return {"strict": float(strict_number(text) == gold), "flexible": float(flexible_number(text) == gold)}


def mc2(doc: Row, results: list[tuple[float, bool]]) -> dict[str, float]:
    """What lm-eval records of a TruthfulQA question: the share of the true answers in the probability of all."""
    share = special.softmax([log_likelihood for log_likelihood, _ in results])
    return {"mc2": float(share @ np.array(doc["labels"], float))}


def parameters(settings: TinyBenchmarks, assets: Assets) -> pd.DataFrame:
    """The item parameters of the five tasks (see irt.table), upstream or made up for the items that we made up."""
    if settings.data == "upstream":
        return table(assets.arrays("tinybenchmarks_irt"), BENCHMARK_OF)
    return table(made_up_parameters(BENCHMARK_OF, min(settings.limit or MADE_UP, MADE_UP)), BENCHMARK_OF)


def score(draws: pd.DataFrame, irt: pd.DataFrame | None, registry: Registry) -> pd.DataFrame:
    """Tidy scores of measured items (COLUMNS): correct of each item, and per split under the item `all` the mean.

    What was written to a GSM8K question is read here once more, so that another way to read needs no GPU.
    The splits are the tasks; those with two metrics have two, such as gsm8k_strict and gsm8k_flexible. With the item
    parameters `irt` and all of a task's items, also p_irt and gp_irt.
    """
    rows: list[tuple[str, str, str, float]] = []
    for (task, metric), items in _groups(_read_again(draws)):
        split = _split(task, metric)
        pairs = zip(items["prompt_id"], items["value"], strict=True)
        rows += [(split, item, "correct", value) for item, value in pairs]
        rows.append((split, ALL, "mean", items["value"].mean()))
        rows += [(split, ALL, name, value) for name, value in _estimates(task, items, irt).items()]
    return tidy(rows)


def _read_again(draws: pd.DataFrame) -> pd.DataFrame:
    rows = draws[draws["metric"].isin(WRITTEN)]
    read = zip(rows["metric"], rows["text"], rows["gold"], strict=True)
    values = [gsm8k({"answer": gold}, [text])[metric] for metric, text, gold in read]
    return draws.assign(value=draws["value"].mask(draws["metric"].isin(WRITTEN), pd.Series(values, rows.index, float)))


def _groups(draws: pd.DataFrame) -> Any:
    return draws.groupby(["split", "metric"], sort=False)


def _split(task: str, metric: str) -> str:
    return task if metric in ONLY_METRIC else f"{task}_{metric}"


def _estimates(task: str, items: Any, irt: pd.DataFrame | None) -> dict[str, float]:
    bank = bank_of(irt, task) if irt is not None else None
    if bank is None:
        return {}
    wanted = [f"{task}/{number}" for number in range(len(bank.seen))]
    values = items.set_index("prompt_id")["value"]
    if sorted(values.index) != sorted(wanted):
        return {}
    found = estimates(values[wanted].to_numpy(float), bank)
    return {name: found[name] for name in ("p_irt", "gp_irt")}


def summary(draws: pd.DataFrame, registry: Registry) -> dict[str, Any]:
    """The mean of each task, by split."""
    return jsonable({_split(*key): items["value"].mean() for key, items in _groups(_read_again(draws))})
