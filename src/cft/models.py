"""Models, tokenizers and adapters, loaded from the folders that prepare.py makes."""

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME as GENERATION
from transformers.utils.hub import cached_file
from transformers.utils.quantization_config import Mxfp4Config

from cft import CftError
from cft.model_settings import ModelSource
from cft.settings import check

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def settings_of(folder: Path) -> ModelSource:
    """The settings a prepared folder was made from; raises CftError when the folder is missing or incomplete."""
    record = {key: value for key, value in _record(folder).items() if key != "weights"}
    return check(ModelSource, record, f"{folder}/model.json")


def _record(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "model.json").read_text())
    except (OSError, json.JSONDecodeError):
        raise CftError(f"{folder} is not a prepared model (no readable model.json); make it with `cft model`")


def location(folder: Path) -> dict[str, Any]:
    """Where a prepared folder's weights lie, as arguments of `from_pretrained`."""
    record = _record(folder)
    where = {"pretrained_model_name_or_path": record["weights"] or str(folder)}
    return where | ({"revision": record["revision"]} if record["revision"] else {})


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a prepared folder; raises CftError when it cannot be read."""
    where, record = location(folder), _record(folder)
    if record.get("tokenizer"):
        where = {"pretrained_model_name_or_path": record["tokenizer"], "revision": record["tokenizer_revision"]}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where)
    except (OSError, ValueError) as error:
        raise CftError(f"tokenizer of {where['pretrained_model_name_or_path']}: {str(error).splitlines()[0]}")
    tokenizer.padding_side = "left"
    return tokenizer


def published_ends(folder: Path) -> list[int]:
    """The tokens that end generation by the generation_config.json of a prepared folder's weights; none without one.

    Raises CftError when that file is damaged.
    """
    file = _published(location(folder), GENERATION)
    if file is None:
        return []
    try:
        found = GenerationConfig.from_pretrained(Path(file).parent).eos_token_id
    except (OSError, ValueError) as error:
        raise CftError(f"{file} is damaged ({str(error).splitlines()[0]}); get the model again")
    return [found] if isinstance(found, int) else list(found or [])


def _published(where: dict[str, Any], file: str) -> str | None:
    """The path of one of a model's small files, None where it has none."""
    rest = {key: value for key, value in where.items() if key != "pretrained_model_name_or_path"}
    name = where["pretrained_model_name_or_path"]
    return cached_file(name, file, _raise_exceptions_for_missing_entries=False, **rest)


def has_gpu() -> bool:
    """Whether torch can use a GPU. Raises CftError where a job was given one that it cannot use: on the processor it
    would run for days."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if torch.cuda.is_available():
        return True
    if torch.version.cuda and given not in ("", "-1", "NoDevFiles"):
        raise CftError(
            f"this job was given GPUs (CUDA_VISIBLE_DEVICES={given}), but torch {torch.__version__} cannot use them: "
            f"compare the driver (nvidia-smi) with CUDA {torch.version.cuda}; in an image, look for warnings of --nv"
        )
    return False


def device() -> torch.device:
    return torch.device("cuda" if has_gpu() else "cpu")


def load_model(folder: Path, adapter: Path | None = None, on: torch.device | None = None) -> Any:
    """The causal language model of a prepared folder in its dtype, on this machine's device or `on`, to evaluate.

    With `adapter` the PEFT adapter is attached (not merged). Raises CftError when it belongs to another model.
    """
    settings = settings_of(folder)
    where = location(folder)
    try:
        dtype = getattr(torch, settings.dtype)
        packed: dict[str, Any] = {"quantization_config": Mxfp4Config(dequantize=True)} if _is_packed(where) else {}
        model: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=dtype, **packed)
    except (OSError, ValueError) as error:
        raise CftError(f"model {where['pretrained_model_name_or_path']}: {str(error).splitlines()[0]}")
    except SafetensorError as error:
        raise CftError(
            f"model {where['pretrained_model_name_or_path']}: its weights are damaged ({error}); get them again"
        )
    for parameter in model.parameters():  # no buffers: frequencies of rotary positions are float32 whatever the dtype
        parameter.data = parameter.data.to(dtype)
    if adapter is not None:
        model = _attach(model, Path(adapter))
    return model.eval().to(on or device())


def _is_packed(where: dict[str, Any]) -> bool:
    """Whether a checkpoint holds 4-bit floats, as gpt-oss's does; adapters want plain ones."""
    packed = getattr(AutoConfig.from_pretrained(**where), "quantization_config", None) or {}
    return packed.get("quant_method") == "mxfp4"


def save_merged(model: Any, folder: Path, out: Path) -> None:
    """Write a model with an adapter, made from a prepared folder, as a checkpoint of its own."""
    where = location(folder)
    # The names of the published file, but for 4-bit floats: transformers 5.19 would leave out what it has unpacked.
    model.merge_and_unload().save_pretrained(out, save_original_format=not _is_packed(where))
    load_tokenizer(folder).save_pretrained(out)
    for file in ("preprocessor_config.json", "processor_config.json"):  # vLLM wants them of a model that takes images
        found = _published(where, file)
        if found is not None:
            shutil.copy(found, out / file)


def _attach(model: Any, adapter: Path) -> Any:
    from peft import PeftModel
    from safetensors import safe_open

    weights = adapter / "adapter_model.safetensors"
    try:
        if not (adapter / "adapter_config.json").is_file():  # peft would ask the hub for a repository of this name
            raise OSError("it has no adapter_config.json")
        with safe_open(weights, "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft warns of missing weights; below they are an error
            attached = PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=False)
    except (OSError, SafetensorError, ValueError) as error:
        raise CftError(f"adapter {adapter}: cannot be read ({str(error).splitlines()[0]}); train it again")
    except (KeyError, TypeError) as error:  # what peft says of JSON that is no adapter's configuration
        raise CftError(f"adapter {adapter}: its adapter_config.json is damaged ({error}); train it again")
    except RuntimeError:
        raise CftError(f"adapter {adapter} does not fit this model: it was trained for another one")
    expected = {n: tuple(p.shape) for n, p in attached.named_parameters() if "lora_" in n}
    if {n.replace(".default", ""): s for n, s in expected.items()} != shapes:
        raise CftError(f"adapter {adapter} does not fit this model: it was trained for another one")
    return attached


def next_token_log_law(model: Any, prompts: list[list[int]]) -> torch.Tensor:
    """[prompts, vocabulary] log-probabilities (nats) of the token after each prompt, on the processor."""
    with torch.inference_mode():
        rows = [
            model(torch.tensor([prompt], device=model.device), logits_to_keep=1).logits[0, -1] for prompt in prompts
        ]
    return torch.stack(rows).float().log_softmax(-1).cpu()


def adapter_effect(model: Any, prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """The log-laws [prompts, vocabulary] after `prompts` without and with the attached adapter.

    Raises CftError when they are equal: the draws would be the base model's.
    """
    tuned = next_token_log_law(model, prompts)
    with model.disable_adapter():
        base = next_token_log_law(model, prompts)
    if not float((tuned - base).abs().max()) > 1e-6:
        raise CftError("the adapter does not change the model's next-token law: it is untrained or not active")
    return base, tuned


def load_for_evaluation(folder: Path, adapter: Path | None, prompt: list[int]) -> tuple[Any, dict[str, Any]]:
    """The model to draw from or to measure, its adapter merged into the weights, and what run.json says of it.

    Raises CftError when the adapter does not fit or does not change the law after `prompt`.
    """
    model = load_model(folder, adapter)
    facts: dict[str, Any] = {"source": settings_of(folder).model_dump(), "device": str(model.device)}
    if adapter is not None:
        base, tuned = adapter_effect(model, [prompt])
        change = round(float((tuned - base).abs().max()), 6)
        facts["adapter"] = {"path": str(adapter), "merged": True, "largest_change_on_probe_nats": change}
        model = model.merge_and_unload()
    return model, facts
