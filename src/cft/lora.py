"""The adapter: low-rank updates of a model's projections (arXiv 2605.11845)."""

import re
from typing import Any

from peft import LoraConfig, get_peft_model

from cft import CftError
from cft.method_settings import LoraSettings


def add_adapter(model: Any, settings: LoraSettings, scope: str | None = None) -> Any:
    """`model` with a fresh adapter on the layers that settings.targets names, within its language model.

    scope    the part of the model whose layers get it; by default the language model
    Raises CftError when a target names no layer there, and when the scope is no part of the language model: an adapter
    for calibrated numbers has no business in a vision tower.
    """
    language_model = next(name for name, module in model.named_modules() if module is model.get_decoder())
    inner = scope or language_model
    if not f"{inner}.".startswith(f"{language_model}."):
        raise CftError(
            f"lora_scope {scope!r} is not in the language model of {type(model).__name__}, {language_model!r}"
        )
    named = [name for name, _ in model.named_modules() if name.rpartition(".")[2] in settings.targets]
    head = [name for name, _ in model.named_children()]  # in no layer: who names it means it
    inside = [name for name in named if name.startswith(f"{inner}.") or name in head]
    for target in settings.targets:
        if not any(name.rpartition(".")[2] == target for name in inside):
            raise CftError(f"lora.targets: {target} names no layer in {inner} of {type(model).__name__}")
    # A plain list of names where it suffices: the form in which adapters are usually published.
    exactly = rf"({re.escape(inner)}\..*\b|)({'|'.join(map(re.escape, settings.targets))})"
    lora = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=settings.targets if inside == named else exactly,
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora, autocast_adapter_dtype=settings.dtype == "float32")
