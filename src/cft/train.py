"""Fine-tuning: a transformers Trainer around the loss of batches.py, with checkpoints and resume (paper section 3)."""

import csv
import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from cft import CftError
from cft.batches import Batches, batch_loss
from cft.method_settings import FinetuneMethod
from cft.models import load_model, load_tokenizer, settings_of
from cft.progress import Progress
from cft.provenance import replacing, write_run

log = logging.getLogger(__name__)
COMPLETE = "complete"  # a file that is written last into a checkpoint: one without it was cut off


class CalibrationTrainer(Trainer):
    """A Trainer whose data items are whole effective batches, cut into micro-batches.

    Dividing by a fixed number of accumulation steps would weigh an epoch's shorter last batch wrongly; here every label
    carries its weight in the effective batch, and the gradients of the micro-batches just add up.
    """

    def __init__(self, temperature: float, **arguments: Any):
        super().__init__(**arguments)
        self.temperature = temperature

    def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> torch.Tensor:
        return batch_loss(model, inputs, self.temperature)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        model.train()
        total = torch.zeros((), device=self.args.device)
        for micro in self._prepare_inputs(inputs):
            loss = self.compute_loss(model, micro)
            self.accelerator.backward(loss)
            total += loss.detach().float()
        if not torch.isfinite(total):
            raise CftError(f"the loss is {total.item()} at step {self.state.global_step + 1}; lower the learning rate")
        return total

    def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    def floating_point_ops(self, inputs: Any) -> int:
        return 0

    def _save_checkpoint(self, *arguments: Any, **named: Any) -> None:
        super()._save_checkpoint(*arguments, **named)
        (Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}" / COMPLETE).touch()


class _ShowProgress(TrainerCallback):
    def __init__(self, progress: Progress):
        self.progress, self.note = progress, ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.progress.update(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.note = f"loss {logs['loss']:.4f}"

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.progress.update(1, self.note)


def finetune(
    model_folder: Path, data_folder: Path, method: FinetuneMethod, seed: int, micro_batch: int, out: Path
) -> None:
    """Train the adapter of one (model, method, seed) and write it to the folder `out`, with train_log.csv and run.json.

    At most `micro_batch` values are in one forward pass; it changes memory and speed only.
    Checkpoints lie beside `out`; a run that was killed continues from the last whole one and ends the same.
    Raises CftError when the loss is not finite.
    """
    settings = settings_of(model_folder)
    tokenizer = load_tokenizer(model_folder)
    data = Batches(data_folder, tokenizer, settings.chat, method, micro_batch)
    checkpoints = out.with_name(out.name + ".checkpoints")
    last = _last_checkpoint(checkpoints, {"model": settings.model_dump(), "method": method.model_dump(), "seed": seed})
    torch.manual_seed(seed)
    model = _with_adapter(load_model(model_folder), method)
    with Progress("finetune", len(data), "steps") as progress:
        trainer = CalibrationTrainer(
            temperature=method.temperature,
            model=model,
            args=_arguments(checkpoints, method, seed, len(data)),
            train_dataset=data,
            data_collator=_only_item,
            callbacks=[_ShowProgress(progress)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    model.peft_config["default"].base_model_name_or_path = settings.repo or settings.package or model_folder.name
    _write_adapter(model, trainer.state.log_history, out)
    write_run(
        out,
        source=settings.model_dump(),
        method=method.model_dump(),
        seed=seed,
        steps=len(data),
        values=sum(map(len, data.steps)),
        terminator=tokenizer.convert_ids_to_tokens(data.terminator),
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        final_loss=_losses(trainer.state.log_history)[-1]["loss"],
        resumed_from=last.name if last else None,
        device=str(model.device),
    )
    shutil.rmtree(checkpoints)


def _only_item(items: list[Any]) -> Any:
    return items[0]


def _with_adapter(model: Any, method: FinetuneMethod) -> Any:
    lora = LoraConfig(
        r=method.lora.rank,
        lora_alpha=method.lora.alpha,  # type: ignore[arg-type]
        lora_dropout=method.lora.dropout,
        target_modules=method.lora.targets,
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, lora, autocast_adapter_dtype=False)
    except ValueError as error:
        raise CftError(f"lora.targets {method.lora.targets}: {str(error).splitlines()[0]}")


def _arguments(checkpoints: Path, method: FinetuneMethod, seed: int, steps: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=1,
        max_steps=steps,
        learning_rate=method.learning_rate,
        weight_decay=method.weight_decay,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(method.warmup * steps),
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
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _last_checkpoint(folder: Path, settings: dict[str, Any]) -> Path | None:
    """The last whole checkpoint made with the same settings; others are removed."""
    wanted = json.dumps(settings, sort_keys=True)
    note = folder / "settings.json"
    if folder.is_dir() and (not note.is_file() or note.read_text() != wanted):
        log.info("checkpoints of other settings in %s: starting anew", folder)
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(wanted)
    for cut_off in [path for path in folder.glob("checkpoint-*") if not (path / COMPLETE).is_file()]:
        shutil.rmtree(cut_off)
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return found[-1] if found else None


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
