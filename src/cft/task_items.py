"""The items of tinyBenchmarks, full GSM8K and IFEval as their data sets have them, or made up in the same form.

Columns as on the hub, where the files lie in CONFIG/SPLIT-*.parquet or data/SPLIT-*.parquet; IFEval is one .jsonl file.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cft import CftError
from cft.assets import Assets
from cft.provenance import read_table
from cft.streams import stream

Row = dict[str, Any]
MADE_UP = 6  # items of a task that we make up
NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn")


class Source(NamedTuple):
    """A data set: its asset, the configuration and split of its items, and the columns that we read."""

    asset: str
    configuration: str
    split: str
    columns: list[str]


SOURCES = {
    "mmlu": Source("tiny_mmlu", "all", "test", ["input_formatted", "choices", "answer"]),
    "hellaswag": Source("tiny_hellaswag", "default", "validation", ["input_formatted", "endings", "label"]),
    "truthfulqa": Source("tiny_truthfulqa", "multiple_choice", "validation", ["input_formatted", "mc2_targets"]),
    "winogrande": Source(
        "tiny_winogrande",
        "winogrande_xl",
        "validation",
        ["input_formatted", "sentence", "option1", "option2", "answer"],
    ),
    "gsm8k": Source("tiny_gsm8k", "main", "test", ["input_formatted", "answer"]),
    "gsm8k_full": Source("gsm8k", "main", "test", ["question", "answer"]),
    "gsm8k_examples": Source("gsm8k", "main", "train", ["question", "answer"]),
    "ifeval": Source("ifeval", "default", "train", ["key", "prompt", "instruction_id_list", "kwargs"]),
}


def upstream(name: str, assets: Assets) -> list[Row]:
    """The rows of a data set (a key of SOURCES) in their order, as plain values.

    Raises CftError when the files are not there, cannot be read, or lack a column.
    """
    source = SOURCES[name]
    folder = assets.folder(source.asset)
    patterns = [f"{source.configuration}/{source.split}*.parquet", f"{source.split}*.parquet", "*.jsonl"]
    files = next((found for pattern in patterns if (found := sorted(folder.rglob(pattern)))), None)
    if files is None:
        raise CftError(f"{folder}: no file {' or '.join(patterns)}; get the data set {source.asset} again")
    return [row for file in files for row in _read(file, source.columns)]


def _read(file: Path, columns: list[str]) -> list[Row]:
    if file.suffix == ".parquet":
        rows: Any = read_table(file, columns)[columns]
        rows = rows.to_dict(orient="records")
        return json.loads(json.dumps(rows, default=_plain))
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
        return [{column: row[column] for column in columns} for row in rows]
    except (UnicodeDecodeError, json.JSONDecodeError, TypeError, KeyError) as error:
        raise CftError(f"{file}: its lines are not JSON objects with {', '.join(columns)} ({error}); get it again")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")


def made_up(name: str) -> list[Row]:
    """MADE_UP rows in the form of a data set (a key of SOURCES), always the same: for trying the machinery only."""
    return [_MAKERS[name](number) for number in range(MADE_UP)]


def _mmlu(number: int) -> Row:
    right, place = 2 * number + 5, number % 4
    choices = [str(right + other - place) for other in range(4)]
    listed = "".join(f"{letter}. {choice}\n" for letter, choice in zip("ABCD", choices, strict=True))
    text = f"These are questions about sums.\n\nWhat is {number + 2} + {number + 3}?\n{listed}Answer:"
    return {"input_formatted": text, "choices": choices, "answer": place}


def _hellaswag(number: int) -> Row:
    endings = [f"drinks it{' slowly' * number}.", "eats it. [step] He sleeps.", "sails away [title] The sea.", "sings"]
    turned = endings[number % 4 :] + endings[: number % 4]
    text = f"Making tea: {NAMES[number]} pours hot water into a cup. Then {NAMES[number]}"
    return {"input_formatted": text, "endings": turned, "label": str(-number % 4)}


def _truthfulqa(number: int) -> Row:
    answers = {"choices": [f"It is {number + 4}.", "Less than a hundred.", f"It is {number + 40}.", "It is a colour."],
               "labels": [1, 1, 0, 0]}  # fmt: skip
    return {"input_formatted": f"Q: What is {number} + 4?\nA:", "mc2_targets": answers}


def _winogrande(number: int) -> Row:
    sentence = f"{NAMES[number]} put the ball into the box because the _ was {'big' if number % 2 else 'small'}."
    options = {"option1": "ball", "option2": "box"}
    answer = "2" if number % 2 else "1"
    text = f"The cup fell because the table moved.\n\n{sentence.split('_')[0]}{options[f'option{answer}']}"
    return {"input_formatted": text, "sentence": sentence, **options, "answer": answer}


def _gsm8k(number: int) -> Row:
    question = f"{NAMES[number]} has {number + 3} boxes of 12 eggs and eats {number}. How many eggs are left?"
    whole = 12 * (number + 3)
    answer = f"There were {number + 3} * 12 = <<{number + 3}*12={whole}>>{whole} eggs.\n#### {whole - number}"
    return {"question": question, "input_formatted": f"Question: {question}\nAnswer:", "answer": answer}


def _ifeval(number: int) -> Row:
    rules: list[tuple[str, Row]] = [
        ("punctuation:no_comma", {}), ("startend:quotation", {}), ("detectable_format:title", {}),
        ("length_constraints:number_words", {"relation": "at least", "num_words": 2}),
        ("keywords:existence", {"keywords": ["tea"]}), ("startend:end_checker", {"end_phrase": "The end."}),
    ]  # fmt: skip
    chosen = [rules[number], rules[(number + 1) % MADE_UP]]
    text = f"Tell {NAMES[number]} a short story about tea. Obey {chosen[0][0]} and {chosen[1][0]}."
    return {"key": number, "prompt": text, "instruction_id_list": [rule for rule, _ in chosen],
            "kwargs": [arguments for _, arguments in chosen]}  # fmt: skip


_MAKERS = {
    "mmlu": _mmlu,
    "hellaswag": _hellaswag,
    "truthfulqa": _truthfulqa,
    "winogrande": _winogrande,
    "gsm8k": _gsm8k,
    "gsm8k_full": _gsm8k,
    "gsm8k_examples": _gsm8k,
    "ifeval": _ifeval,
}


def made_up_parameters(tasks: dict[str, str], seen: int) -> dict[str, Any]:
    """Item parameters in the form of tinyBenchmarks.pkl (see irt.table); the first `seen` items of a task were seen.

    tasks    scenario → benchmark
    """
    size = 5 * MADE_UP
    found: dict[str, Any] = {}
    for benchmark in dict.fromkeys(tasks.values()):
        scenarios = [task for task, name in tasks.items() if name == benchmark]
        generator = stream(0, "item parameters", benchmark)
        starts = {task: size * place for place, task in enumerate(scenarios)}
        shape = (1, 2, size * len(scenarios))
        found[benchmark] = {
            "seen_examples": [start + item for start in starts.values() for item in range(seen)],
            "examples_weights": {task: np.full(seen, 1 / seen) for task in scenarios},
            "irt_parameters": {"A": generator.uniform(0.3, 1.5, shape), "B": generator.normal(0, 1, shape)},
            "optimal_lambdas": dict.fromkeys(scenarios, 0.5),
            "scenarios_position": {task: list(range(start, start + size)) for task, start in starts.items()},
            "subscenarios_position": {
                task: {"few": list(range(start, start + 10)), "many": list(range(start + 10, start + size))}
                for task, start in starts.items()
            },
        }
    return found
