"""A model by its folder, or by its name in a configuration file, prepared where it is not yet."""

from pathlib import Path

import torch

from cft import CftError
from cft.config import load
from cft.model_settings import ModelSettings, ModelSource
from cft.models import settings_of
from cft.prepare import prepare
from cft.settings import check


def named_model(name: str, configfile: Path, models: Path) -> tuple[Path, ModelSettings]:
    """The prepared folder of a model, and how it is run.

    name        a folder made by `cft model`, a folder with a checkpoint, or an entry under `models` in `configfile`
    models      where prepared models are kept, each under its name
    Raises CftError for an unknown name, and where `models` has another model of that name.
    """
    path = Path(name)
    if (path / "model.json").is_file():
        return path, check(ModelSettings, settings_of(path).model_dump(), str(path))
    if (path / "config.json").is_file():
        # Training in 16 bits is too slow to be of use on a processor.
        dtype = "bfloat16" if torch.cuda.is_available() else "float32"
        values = {"source": "folder", "path": str(path.resolve()), "dtype": dtype}
        name, settings = path.resolve().name, check(ModelSettings, values, name)
    else:
        known = load(configfile).models
        if name not in known:
            raise CftError(f"--model {name} is no folder with a model, and {configfile} names {', '.join(known)}")
        settings = known[name]
    folder, source = models / name, ModelSource.model_validate(settings.source_only())
    if not (folder / "model.json").is_file():
        prepare(source, folder)
    elif settings_of(folder) != source:
        raise CftError(f"{folder} was made with other settings than this {name}; give another folder with --models")
    return folder, settings
