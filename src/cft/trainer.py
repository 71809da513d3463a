"""The transformers Trainer of our losses: whole effective batches, several processes, a stop on Slurm's warning."""

import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, SequentialSampler
from transformers import Trainer, TrainerCallback

from cft import CftError
from cft.batches import batch_loss
from cft.parallel import any_of, sharded
from cft.progress import Progress

COMPLETE = "complete"  # a file that is written last into a checkpoint: one without it was cut off


class CalibrationTrainer(Trainer):
    """A Trainer whose data items are whole effective batches, cut into micro-batches.

    Dividing by a fixed number of accumulation steps would weigh an epoch's shorter last batch wrongly; here every label
    carries its weight in the effective batch, and the gradients of the micro-batches just add up, over processes too.
    """

    def __init__(self, temperature: float, **arguments: Any):
        super().__init__(**arguments)
        self.temperature = temperature

    def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> torch.Tensor:
        return batch_loss(model, inputs, self.temperature)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        model.train()
        total = torch.zeros((), device=self.args.device)
        micros = self._prepare_inputs(inputs)
        for number, micro in enumerate(micros, 1):
            # Processes exchange gradients once per step; the wrapper's mean over them becomes our sum.
            with self.accelerator.no_sync(model) if number < len(micros) else nullcontext():
                loss = self.compute_loss(model, micro) * self.args.world_size
                self.accelerator.backward(loss)
            total += loss.detach().float()
        if not torch.isfinite(total):
            raise CftError(f"the loss is {total.item()} at step {self.state.global_step + 1}; lower the learning rate")
        return total

    def get_train_dataloader(self) -> DataLoader:
        """Every process reads every item: a whole batch, of which the data set gives this process its share."""
        return DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            batch_size=1,
            sampler=SequentialSampler(self.train_dataset),  # type: ignore[arg-type]
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def floating_point_ops(self, inputs: Any) -> int:
        return 0

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """The adapter in the precision in which it is trained: the Trainer's own way makes it float32."""
        whole: Any = self.model if model is None else model
        whole.load_adapter(resume_from_checkpoint, "default", is_trainable=True, autocast_adapter_dtype=False)

    def _wrap_model(self, model: Any, training: bool = True, dataloader: DataLoader | None = None) -> Any:
        """accelerate refuses to wrap what is sharded on GPUs; but only weights are that nobody trains."""
        if training and sharded(model) and not isinstance(model, DistributedDataParallel):
            return DistributedDataParallel(model)
        return super()._wrap_model(model, training, dataloader)

    def _save_checkpoint(self, *arguments: Any, **named: Any) -> None:
        super()._save_checkpoint(*arguments, **named)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            (Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}" / COMPLETE).touch()


class ShowProgress(TrainerCallback):
    """Steps and the last loss, in a bar or as lines of a log."""

    def __init__(self, progress: Progress):
        self.progress, self.note = progress, ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.progress.resume(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.note = f"loss {logs['loss']:.4f}"

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.progress.update(1, self.note)


class StopOnWarning(TrainerCallback):
    """On SIGUSR1, which Slurm sends before a job's time is up, write a checkpoint after the step and stop."""

    def __init__(self) -> None:
        self.warned = False
        self._before = signal.signal(signal.SIGUSR1, self._note)

    def _note(self, *_: Any) -> None:
        self.warned = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # The signal may come while we ask the others: its note must not be overwritten.
        if any_of(self.warned, args.device) and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        signal.signal(signal.SIGUSR1, self._before)
