"""The sub-commands of `cft`, and the options that several of them share.

Nothing heavy is imported before a sub-command runs, so that --help answers at once.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from cft import CftError

app = typer.Typer(
    help="Calibration fine-tuning: one sub-command per rule of the workflow, and a few to look in.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def parquet(path: Path | None) -> Path | None:
    """Another ending would hide what it is, and two tables of one name would share their run.json."""
    if path is not None and path.suffix != ".parquet":
        raise CftError(f"--out {path}: this writes a Parquet table; give it a name that ends with .parquet")
    return path


Out = Annotated[Path, typer.Option(help="file to write", dir_okay=False)]
OutTable = Annotated[Path, typer.Option(help="table to write, a .parquet file", dir_okay=False, callback=parquet)]
OutFolder = Annotated[Path, typer.Option(help="folder to write", file_okay=False)]
Replace = Annotated[bool, typer.Option("--replace", help="whatever that folder holds may go")]
Setting = Annotated[str, typer.Option(help="settings as JSON, or the path of a YAML file")]
Distributions = Annotated[Path, typer.Option(help="the table of families")]
Families = Path(__file__).resolve().parents[3] / "config" / "distributions.yaml"
UpstreamFiles = Families.with_name("assets.yaml")
ModelFolder = Annotated[Path, typer.Option(help="a folder made by `cft model`")]
Adapter = Annotated[Path | None, typer.Option(help="a folder made by `cft finetune`")]
Seed = Annotated[int, typer.Option(min=0)]
Threads = Annotated[int, typer.Option(min=1, help="processor threads")]
CacheTokens = Annotated[int, typer.Option(min=1, help="tokens of key-value cache in memory")]
Vllm = Annotated[str, typer.Option(help="how vLLM runs, as JSON or the path of a YAML file")]
Identity = Annotated[str, typer.Option(help="JSON object of further constant columns")]
Prompts = Annotated[Path, typer.Option(help="a file made by `cft benchmark-prompts`")]
UpstreamTable = Annotated[Path, typer.Option(help="the table of upstream files")]
Mirror = Annotated[Path | None, typer.Option(help="a folder that holds the upstream files")]
AssetCache = Annotated[Path, typer.Option(help="where downloads are kept")]
Downloads = Path("results/assets")


def upstream(table: Path, mirror: Path | None, cache: Path) -> Any:
    """The upstream files that a command may need."""
    from cft.assets import Assets
    from cft.settings import read_yaml

    return Assets(read_yaml(table) or {}, mirror, cache)


def use_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
