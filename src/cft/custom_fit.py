"""Fine-tuning on a distribution of one's own: training data, adapter and exact laws, in one folder.

data/         prompts.parquet, examples.parquet        adapter/      a PEFT folder
laws.csv      outcome by outcome: target, base, tuned   measures.csv  the distances, phrasing by phrasing
report.html   all of it to read                         run.json      written last: with it the folder is whole
"""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import pandas as pd
import torch

from cft import CftError, chat
from cft.bounded import Limits, columns
from cft.custom import ELSE, MAX_BINS, QUANTILES, OwnTarget
from cft.custom_page import page
from cft.data import write_examples
from cft.distributions import Prompt
from cft.law import on_target, rows_within
from cft.method_settings import FinetuneMethod
from cft.model_settings import TrainingSettings
from cft.models import load_for_evaluation, load_tokenizer, published_ends, settings_of
from cft.prefix import Prefixes
from cft.progress import Progress
from cft.provenance import replacing, run_facts, write_run
from cft.settings import check, read_json
from cft.train import finetune
from cft.trie import build_trie

PARTS = ("data", "adapter", "adapter.checkpoints", "laws.csv", "measures.csv", "report.html", "run.json")
DRAWS = {"law": 16, "draw": 64}  # values of a prompt in a step: a drawn token says less than the law it comes from
TRAINED, HELD_OUT = "trained", "held out"
# For numbers: the bounds on distances of the whole law, see bounds.py.
GAP, NODES, LONGEST = 0.01, 1000, 32
BOUNDED = [f"law_{name}_{side}" for name in ("valid", "pit_w1", "ks") for side in ("low", "high")]


class Phrasing(NamedTuple):
    """One prompt; `split` says whether it is trained on."""

    name: str
    split: str
    text: str


def phrasings(own: OwnTarget) -> list[Phrasing]:
    """All prompts of a target, those of the training first."""
    both = ((TRAINED, own.prompts), (HELD_OUT, own.held_out))
    return [Phrasing(f"{split} {i}", split, text) for split, texts in both for i, text in enumerate(texts, 1)]


def method_for(own: OwnTarget, labels: str, steps: int, learning_rate: float) -> FinetuneMethod:
    """How a target is trained on: so many steps, two phrasings in each of them where there are two."""
    draws = DRAWS[labels]
    values = {
        "kind": "finetune",
        "labels": labels,
        "average": "value" if labels == "law" else "token",
        "max_bins": MAX_BINS,
        "decimals": own.decimals or 0,
        "epochs": steps,
        "max_steps": steps,
        "draws": draws,
        "draws_per_prompt": draws,
        "batch_size": draws * min(2, len(own.prompts)),
        "learning_rate": learning_rate,
        "save_every": 20,
    }
    return check(FinetuneMethod, values, "cft fit")


def begin(out: Path, force: bool) -> None:
    """Look at the folder to write into; raises CftError where it holds anything but a fit that was interrupted.

    force    removes a finished fit
    """
    run = out / "run.json"
    if run.is_file():
        if "own_target" not in read_json(run):
            raise CftError(f"{out} holds something else than a fit; choose another --out")
        if not force:
            raise CftError(f"{out} holds a finished fit; add --force to replace it, or choose another --out")
    elif out.is_dir() and {path.name for path in out.iterdir() if not path.name.startswith(".")} - {*PARTS}:
        raise CftError(f"{out} holds other files; choose another --out")
    if force:
        run.unlink(missing_ok=True)  # first: what is half-removed must not look finished
        for name in PARTS:
            _remove(out / name)


def fit(
    own: OwnTarget,
    model_folder: Path,
    method: FinetuneMethod,
    seed: int,
    training: TrainingSettings,
    cache_tokens: int,
    out: Path,
    **facts: Any,
) -> pd.DataFrame:
    """Train, measure and write the folder `out`; `facts` go into run.json and onto the page. Returns the measures.

    What was interrupted goes on from its last checkpoint, unless the data are other ones now.
    Raises CftError when the model's tokenizer cannot write the outcomes apart, and as `cft.train.finetune`.
    """
    check_answers(own, model_folder)
    data, adapter = out / "data", out / "adapter"
    before = _bytes_of(data)
    asked = [Prompt(f"{own.name}/{i}", "train", own.name, {}, text, True, False) for i, text in enumerate(own.prompts)]
    write_examples(asked, lambda _: own.target, method, seed, data)
    if _bytes_of(data) != before:
        for stale in (adapter, out / "adapter.checkpoints"):
            _remove(stale)
    if not _is_trained(adapter, model_folder, method, seed):
        finetune(model_folder, data, method, seed, training, adapter)
    _remove(out / "adapter.checkpoints")
    laws, measures = measure(own, model_folder, adapter, cache_tokens)
    for name, frame in (("laws.csv", laws), ("measures.csv", measures)):
        with replacing(out / name) as temporary:
            frame.to_csv(temporary, index=False)
    facts |= {"method": method.model_dump(), "seed": seed, "training": training.model_dump()}
    facts |= {"source": settings_of(model_folder).model_dump(), "model_folder": str(model_folder)}
    with replacing(out / "report.html") as temporary:
        temporary.write_text(page(own, phrasings(own), laws, measures, out, facts, run_facts()), encoding="utf-8")
    target = {"name": own.name, "outcomes": len(own.target.values), "prompts": own.prompts, "held_out": own.held_out}
    write_run(out, own_target=target, measures=measures.to_dict("records"), **facts)
    return measures


def check_answers(own: OwnTarget, model_folder: Path) -> None:
    """Raise CftError unless the tokenizer keeps every outcome apart from the prompts and from the other outcomes."""
    tokenizer, settings = load_tokenizer(model_folder), settings_of(model_folder).chat
    tokens = chat.tokenize_values(tokenizer, own.target.values)
    build_trie(tokens, own.target.probabilities, chat.terminator(tokenizer, settings))
    # What merges with a prompt's end is a value's beginning.
    for value in {value[:3]: value for value in own.target.values}.values():
        for phrasing in phrasings(own):
            chat.check_boundary(tokenizer, phrasing.text, value, settings)


def measure(own: OwnTarget, model_folder: Path, adapter: Path, cache_tokens: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The exact laws before and after training, and what they say of each phrasing.

    laws      phrasing, split, outcome, target, base, tuned: a row per outcome, and one for something else
    measures  phrasing, split, model (base or tuned), total_variation, outcome_probability, sequence_kl (nats); for
              SciPy distributions also bounds on the law of all numbers, law_pit_w1_low …
    """
    tokenizer, settings = load_tokenizer(model_folder), settings_of(model_folder).chat
    ends, asked = chat.stops(tokenizer, settings, published_ends(model_folder)), phrasings(own)
    tokens = [chat.prompt_tokens(tokenizer, phrasing.text, settings) for phrasing in asked]
    trie = build_trie(chat.tokenize_values(tokenizer, own.target.values), own.target.probabilities, ends[0])
    found: dict[tuple[str, str], dict[str, Any]] = {}
    with torch.inference_mode(), Progress("law", 2 * len(asked), "prompts") as progress:
        for name, path in (("base", None), ("tuned", adapter)):
            model, _ = load_for_evaluation(model_folder, path, tokens[0])
            for phrasing, prompt in zip(asked, tokens, strict=True):
                start, rows = Prefixes.of(model, [prompt]), rows_within(cache_tokens, prompt, trie)
                record = on_target(start, trie, own.target, rows)
                if own.frozen is not None:
                    limits = Limits(GAP, NODES, LONGEST, rows, crc32(phrasing.name.encode()))
                    record |= columns(start, tokenizer, ends, own.frozen, own.target, QUANTILES, limits)
                found[phrasing.name, name] = record
                progress.update()
            del model
    laws = pd.concat([_laws_of(own, phrasing, found) for phrasing in asked], ignore_index=True)
    kept = BOUNDED if own.frozen is not None else []
    measures = [
        {"phrasing": phrasing.name, "split": phrasing.split, "model": name}
        | {"total_variation": total_variation(own.target.probabilities, record["law"])}
        | {"outcome_probability": record["support_probability"], "sequence_kl": record["sequence_kl"]}
        | {key: record[key] for key in kept}
        for phrasing in asked
        for name in ("base", "tuned")
        for record in [found[phrasing.name, name]]
    ]
    return laws, pd.DataFrame(measures)


def _laws_of(own: OwnTarget, phrasing: Phrasing, found: dict[tuple[str, str], dict[str, Any]]) -> pd.DataFrame:
    laws = {
        "target": own.target.probabilities,
        **{name: found[phrasing.name, name]["law"] for name in ("base", "tuned")},
    }
    columns = {name: np.append(law, max(0.0, 1 - law.sum())) for name, law in laws.items()}
    columns["target"][-1] = 0.0
    named = {"phrasing": phrasing.name, "split": phrasing.split, "outcome": [*own.target.values, ELSE]}
    return pd.DataFrame(named | columns)


def told(measures: pd.DataFrame) -> list[str]:
    """A line per phrasing: its total variation from the target before and after."""
    wide = measures.pivot(index="phrasing", columns="model", values="total_variation")
    return [
        f"{name}: total variation from the target {wide.at[name, 'base']:.3f} -> {wide.at[name, 'tuned']:.3f}"
        for name in dict.fromkeys(measures["phrasing"])
    ]


def total_variation(target: np.ndarray, law: np.ndarray) -> float:
    """Half the sum of |target - law| over the outcomes and over something else, which the target never says."""
    return float((np.abs(target - law).sum() + max(0.0, 1 - law.sum())) / 2)


def _bytes_of(data: Path) -> list[bytes]:
    files = [data / "prompts.parquet", data / "examples.parquet"]
    return [file.read_bytes() for file in files if file.is_file()]


def _is_trained(adapter: Path, model_folder: Path, method: FinetuneMethod, seed: int) -> bool:
    """Whether the adapter is there, whole and of these settings; its run.json is written after it."""
    run = adapter / "run.json"
    if not run.is_file():
        return False
    wanted = {"source": settings_of(model_folder).model_dump(), "method": method.model_dump(), "seed": seed}
    record = read_json(run)
    return all(record.get(key) == json.loads(json.dumps(value)) for key, value in wanted.items())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
