"""`cft images`: build the container images, check what is inside, ask registries for digests."""

from pathlib import Path
from typing import Annotated

import typer

from cft import CftError
from cft.commands import app

images = typer.Typer(help="Container images: build, verify, digest.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(images, name="images")

Names = Annotated[list[str] | None, typer.Argument(help="which images; all if none is named")]
Table = Annotated[Path, typer.Option("--images", help="the table of images")]
TABLE = Path(__file__).resolve().parents[3] / "containers" / "images.yaml"
Options = Annotated[list[str] | None, typer.Option("--option", help="passed on, as in --option=--fakeroot")]


def _chosen(names: list[str] | None, table: Path) -> list:
    from cft.images import read

    known = read(table)
    unknown = sorted(set(names or ()) - set(known))
    if unknown:
        raise CftError(f"unknown image {', '.join(unknown)}; {table} has {', '.join(known)}")
    return [(name, known[name]) for name in names or known]


@images.command()
def build(
    names: Names = None,
    table: Table = TABLE,
    base: Annotated[str | None, typer.Option(help="a folder with a root file system to start from")] = None,
    options: Options = None,
) -> None:
    """Build local images in containers/sif with Apptainer, and verify them."""
    from cft.images import build, verify

    for name, image in _chosen(names, table):
        build(name, image, base, options or ())
        print(f"{name}: {image.sif(name)}, {verify(name, image)} packages as in the lock")


@images.command()
def verify(names: Names = None, table: Table = TABLE) -> None:
    """Compare the packages inside the images that jobs use with their locks."""
    from cft.images import verify

    for name, image in _chosen(names, table):
        print(f"{name}: {image.location(name)}, {verify(name, image)} packages as in the lock")


@images.command()
def digest(names: Names = None, table: Table = TABLE, options: Options = None) -> None:
    """Ask the registries (with skopeo) whether our digests of base and published images are there."""
    from cft.images import base_of, digest, untagged

    asked = {}
    for _, image in _chosen(names, table):
        tag, _, pinned = base_of(image.recipe).partition("@")
        asked[tag] = pinned
        if image.digest:
            asked[image.tag] = image.digest
    for tag, pinned in asked.items():
        digest(f"{untagged(tag)}@{pinned}", options or ())
        now = digest(tag, options or ())
        print(f"{tag}: {pinned} is there" + ("" if now == pinned else f"; the tag has moved to {now}"))
