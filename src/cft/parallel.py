"""Several processes that train one adapter, each on its share of every batch.

Adapters are small: every process holds a whole copy, and accelerate's data-parallel wrapper averages their gradients.
With `fsdp` the frozen weights are sharded as well (torch's fully_shard), so that a model needs a share of its memory on
each GPU. Checkpoints hold the adapter and its optimiser only, and are the same either way.
"""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import distributed

from cft import CftError


def launched() -> bool:
    """Whether this process is one of those that launch() started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """The number of this process among them; 0 where it is alone."""
    return int(os.environ["RANK"]) if launched() else 0


def launch(processes: int, arguments: Sequence[str]) -> None:
    """Run `cft ARGUMENTS` in so many processes on this machine that know of each other, and wait for them.

    Raises CftError when there are fewer GPUs, and when a process fails; it has said why in its own line.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if torch.cuda.is_available() and torch.cuda.device_count() < processes:
        raise CftError(
            f"processes is {processes}, but {torch.cuda.device_count()} GPUs are visible: lower it, or ask for more"
        )
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // processes)))
    # Slurm's warning reaches every process of a job step; the workers act on it.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id="cft", rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=0, monitor_interval=0.2,
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-m", "cft.cli", *arguments)
    except ChildFailedError as error:
        failed, failure = error.get_first_failure()
        raise CftError(f"training process {failed} ended with exit code {failure.exitcode}; its last line is above")


def shard(model: Any) -> None:
    """Spread the frozen weights of a model with an adapter over all processes, layer by layer."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (distributed.get_world_size(),))
    ours = {parameter for parameter in model.parameters() if parameter.requires_grad}
    # peft calls the model's forward and not the model, which would pass its hooks by: the root is peft's own model.
    for module in [*model.get_decoder().layers, model]:
        fully_shard(module, mesh=mesh, ignored_params=ours & set(module.parameters()))


def sharded(model: Any) -> bool:
    """Whether shard() spread a model."""
    return any(hasattr(parameter, "_local_tensor") for parameter in model.parameters())


def leave_frozen_weights_alone(model: Any) -> None:
    """Keep the data-parallel wrapper from broadcasting weights that every process has read from the same file."""
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    buffers = [name for name, _ in model.named_buffers()]
    torch.nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen + buffers)


def held(model: Any) -> int:
    """How many parameters this process holds."""
    return sum(getattr(p, "_local_tensor", p).numel() for p in model.parameters())


def any_of(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is set in any process."""
    if not distributed.is_initialized():
        return flag
    found = torch.tensor(int(flag), device=device)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return bool(found)
