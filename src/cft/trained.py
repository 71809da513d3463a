"""What the files of a trained adapter say of it, and Python that loads it without this package."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow.parquet as pq

from cft import CftError

FILES = ("run.json", "adapter_config.json", "adapter_model.safetensors")
FACTS = {"command", "source", "method", "seed", "terminator"}
# Asked where the training data are gone; a prompt of theirs where they are not.
EXAMPLE = (
    "Generate exactly ONE random number from a Gaussian distribution with parameters mu=3.5, sigma=3.0. "
    "Output ONLY the number."
)
SNIPPET = """\
from datetime import date

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = {base}
tokenizer = AutoTokenizer.from_pretrained({tokenizer})
model = AutoModelForCausalLM.from_pretrained(base{revision}, dtype=torch.{dtype})
adapter = {adapter}  # or its name on the hub
model = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False).eval()

prompt = {prompt}
text = tokenizer.apply_chat_template(
    [{{"role": "user", "content": prompt}}],
    tokenize=False,
    add_generation_prompt=True,
    strftime_now=date.fromisoformat({today}).strftime,  # the date that the template writes, as in training
{options}){prefix}
end = tokenizer.convert_tokens_to_ids({end})
inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(model.device)
drawn = model.generate(
    **inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0,
    num_return_sequences=10, max_new_tokens=32, eos_token_id=end, pad_token_id=end,
)
answers = tokenizer.batch_decode(drawn[:, inputs.input_ids.shape[1]:], skip_special_tokens=True)
print(answers)"""


class Adapter(NamedTuple):
    """An adapter in its folder; `prompts` (prompt_id, prompt) is None where the data it was trained on are gone."""

    folder: Path
    model: str
    method: str
    run: dict[str, Any]
    prompts: pd.DataFrame | None

    @property
    def seed(self) -> int:
        return self.run["seed"]

    @property
    def title(self) -> str:
        return f"{self.model}, {self.method}, seed {self.seed}"

    @property
    def example(self) -> str:
        """A short prompt of the kind that it was trained on."""
        return EXAMPLE if self.prompts is None else min(self.prompts["prompt"], key=len)


def read_adapter(folder: Path) -> Adapter:
    """The adapter in a folder made by `cft finetune`; raises CftError when there is none."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise CftError(f"{folder} is no adapter made by `cft finetune`: it has no {missing[0]}")
    try:
        run = json.loads((folder / "run.json").read_text())
    except json.JSONDecodeError as error:
        raise CftError(f"{folder}/run.json cannot be read ({error}); train the adapter again")
    if not isinstance(run, dict) or not run.keys() >= FACTS:
        raise CftError(f"{folder} is no adapter made by `cft finetune`: its run.json is of something else")
    if "fit" in run["command"][1:3]:
        raise CftError(f"{folder} is of `cft fit`: the report.html above it says what it is; a card would be wrong")
    # Where the workflow wrote it says what it is, however the folder was copied or renamed since.
    parts = Path(option(run, "--out") or folder).parts
    if len(parts) >= 3 and parts[-1] == f"seed{run['seed']}":
        model, method = parts[-3:-1]
    else:
        model, method = Path(option(run, "--model") or "model").name, run["method"]["labels"]
    return Adapter(folder, model, method, run, _prompts(run))


def option(run: Mapping[str, Any], name: str) -> str | None:
    """The value of an option in the command of a run.json."""
    words = run["command"]
    return words[words.index(name) + 1] if name in words[:-1] else None


def _prompts(run: Mapping[str, Any]) -> pd.DataFrame | None:
    """The prompts of the training data, if these are still there and still this run's."""
    data = Path(option(run, "--data") or "")
    try:
        made = json.loads((data / "run.json").read_text())
        if any(made.get(key) != run[key] for key in ("method", "seed")):
            return None
        return pq.read_table(data / "prompts.parquet", columns=["prompt_id", "prompt"]).to_pandas()
    except FileNotFoundError:
        return None


def base_in_words(adapter: Adapter) -> str:
    """The base model, as Markdown."""
    source = adapter.run["source"]
    return {
        "hub": f"[{source['repo']}](https://huggingface.co/{source['repo']})",
        "folder": f"the model in the folder `{source['path']}`",
        "package": f"the model in the Python package `{source['package']}`",
        "tiny": f"a tiny random {source['architecture']} model, made for tests",
    }[source["source"]]


def snippet(adapter: Adapter) -> str:
    """Python that draws from the adapter, asked and ended as in training; needs torch, transformers and peft.

    A base model that is not on the hub is loaded from the folder that the run had it in.
    """
    source, chat = adapter.run["source"], adapter.run["source"]["chat"]
    revision, prefix = _revision(source["revision"]), chat["answer_prefix"]
    named = source["tokenizer"]
    return SNIPPET.format(
        base=_quoted(source["repo"] or source["path"] or option(adapter.run, "--model")),
        tokenizer=f"{_quoted(named)}{_revision(source['tokenizer_revision'])}" if named else f"base{revision}",
        revision=revision,
        dtype=source["dtype"],
        adapter=_quoted(str(adapter.folder)),
        prompt=_quoted(adapter.example),
        today=_quoted(chat["today"]),
        options="".join(f"    {key}={value!r},\n" for key, value in chat["template_options"].items()),
        prefix=f" + {_quoted(prefix)}  # what is opened before the answer" if prefix else "",
        end=_quoted(adapter.run["terminator"]),
    )


def _quoted(text: str | None) -> str:
    return json.dumps(text, ensure_ascii=False)


def _revision(commit: str | None) -> str:
    return f", revision={_quoted(commit)}" if commit else ""
