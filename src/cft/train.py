"""Fine-tuning: a transformers Trainer around the loss of batches.py, with checkpoints and resume (arXiv 2605.11845)."""

import csv
import json
import logging
import shutil
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from transformers import PrinterCallback, TrainingArguments

from cft import CftError, parallel
from cft.batches import Batches
from cft.journal import digest
from cft.lora import add_adapter
from cft.method_settings import FinetuneMethod
from cft.model_settings import TrainingSettings
from cft.models import has_gpu, load_model, load_tokenizer, settings_of
from cft.progress import Progress
from cft.provenance import replacing, write_run
from cft.trainer import COMPLETE, CalibrationTrainer, ShowProgress, StopOnWarning

log = logging.getLogger(__name__)


def finetune(
    model_folder: Path, data_folder: Path, method: FinetuneMethod, seed: int, training: TrainingSettings, out: Path
) -> None:
    """Train the adapter of one (model, method, seed) and write it to the folder `out`, with train_log.csv and run.json.

    training    changes memory and speed, and of the result the rounding and the masks of dropout
    Checkpoints lie beside `out`; a run that was killed continues from the last whole one and ends the same, on a GPU,
    whose sums have no order, up to rounding. Where parallel.launch() started several processes, each calls this.
    Raises CftError when the loss is not finite, and when it stopped early on a warning signal.
    """
    settings = settings_of(model_folder)
    checkpoints, last = last_checkpoint(model_folder, data_folder, method, seed, out)
    arguments = _arguments(checkpoints, method, seed, training)
    tokenizer = load_tokenizer(model_folder)
    share = (arguments.process_index, arguments.world_size)
    data = Batches(data_folder, tokenizer, settings.chat, method, training.micro_batch, share)
    arguments._n_gpu = min(1, arguments.n_gpu)  # of several GPUs that it sees, a process uses its own
    arguments.max_steps, arguments.warmup_steps = len(data), int(method.warmup * len(data))
    torch.manual_seed(seed)
    sharded = arguments.world_size > 1 and training.sharding == "fsdp"
    whole = load_model(model_folder, on=torch.device("cpu") if sharded else None)
    model = add_adapter(whole, method.lora, settings.lora_scope)
    parallel.leave_frozen_weights_alone(model)
    if sharded:
        parallel.shard(model)
    warning = StopOnWarning()
    with Progress("finetune", len(data), "steps", quiet=parallel.rank() > 0) as progress:
        trainer = CalibrationTrainer(
            temperature=method.temperature,
            model=model,
            args=arguments,
            train_dataset=data,
            data_collator=_only_item,
            callbacks=[ShowProgress(progress), warning],
        )
        trainer.remove_callback(PrinterCallback)
        torch.manual_seed(seed if parallel.rank() == 0 else crc32(f"{seed} {parallel.rank()}".encode()))  # of dropout
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    if trainer.state.global_step < len(data):
        raise CftError(
            f"stopped at step {trainer.state.global_step} of {len(data)}, as the job's time is almost up; a checkpoint "
            "is written, and the next start goes on from there"
        )
    if parallel.rank() > 0:
        return
    made: Any = model.peft_config["default"]
    made.target_modules = sorted(made.target_modules) if isinstance(made.target_modules, set) else made.target_modules
    made.base_model_name_or_path = settings.repo or settings.package or model_folder.name
    _write_adapter(model, trainer.state.log_history, out)
    write_run(
        out,
        source=settings.model_dump(),
        method=method.model_dump(),
        seed=seed,
        training=training.model_dump(),
        steps=len(data),
        values=sum(map(len, data.steps)),
        terminator=tokenizer.convert_ids_to_tokens(data.terminator),
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        parameters_held=parallel.held(model),
        final_loss=_losses(trainer.state.log_history)[-1]["loss"],
        resumed_from=last.name if last else None,
        device=str(model.device),
    )
    shutil.rmtree(checkpoints)


def _only_item(items: list[Any]) -> Any:
    return items[0]


def _arguments(checkpoints: Path, method: FinetuneMethod, seed: int, training: TrainingSettings) -> TrainingArguments:
    """The Trainer's arguments; max_steps and warmup_steps follow from the data."""
    return TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=1,
        learning_rate=method.learning_rate,
        weight_decay=method.weight_decay,
        lr_scheduler_type="cosine",
        max_grad_norm=0,
        optim="adamw_torch",
        seed=seed,
        save_steps=method.save_every,
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=[],
        use_cpu=not has_gpu(),
        dataloader_pin_memory=False,  # our items are lists of parts, which torch would copy one by one
        dataloader_num_workers=training.loaders,
        gradient_checkpointing=training.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        ddp_backend="gloo" if parallel.launched() and not has_gpu() else None,
        ddp_find_unused_parameters=False,
    )


def last_checkpoint(
    model_folder: Path, data_folder: Path, method: FinetuneMethod, seed: int, out: Path
) -> tuple[Path, Path | None]:
    """The folder of a run's checkpoints, and the last whole one made from the same settings and data; others go."""
    settings = {"model": settings_of(model_folder).model_dump(), "method": method.model_dump(), "seed": seed}
    # Whoever reads the data says what is missing.
    files = (data_folder / "prompts.parquet", data_folder / "examples.parquet")
    settings["data"] = [digest(file.read_bytes()) for file in files if file.is_file()]
    wanted = json.dumps(settings, sort_keys=True)
    folder = out.with_name(out.name + ".checkpoints")
    note = folder / "settings.json"
    if folder.is_dir() and (not note.is_file() or note.read_text() != wanted):
        log.info("checkpoints of other settings in %s: starting anew", folder)
        shutil.rmtree(folder)
    if not note.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        note.write_text(wanted)
    for cut_off in [path for path in folder.glob("checkpoint-*") if not (path / COMPLETE).is_file()]:
        shutil.rmtree(cut_off)
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return folder, found[-1] if found else None


def _losses(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in history if "loss" in entry]


def _write_adapter(model: Any, history: list[dict[str, Any]], out: Path) -> None:
    with replacing(out) as temporary:
        model.save_pretrained(temporary, save_embedding_layers=False)
        (temporary / "README.md").unlink(missing_ok=True)  # peft's template; it knows nothing of this adapter
        with open(temporary / "train_log.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, ["step", "loss", "learning_rate"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(_losses(history))
