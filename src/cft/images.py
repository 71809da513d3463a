"""Container images: what containers/images.yaml says of them, building and checking them.

Nothing here needs torch, so that a cluster's head node can use it. Apptainer is driven through spython.
"""

import hashlib
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from cft import CftError
from cft.provenance import code_version, file_hash, replacing
from cft.settings import Settings, check, read_yaml

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
CONTAINERS = Path(__file__).resolve().parents[2] / "containers"
PARTS = ("fill", "selftest.py", "cft")
NAMES = re.compile(r"[-_.]+")


class Image(Settings):
    """One entry of images.yaml."""

    recipe: str = Field(description="the definition file in containers/, without .def")
    lock: str = Field(description="the lock in containers/locks/, without .txt")
    lock_hash: Digest = Field(description="of the lock and smollm2.txt, one after the other")
    tag: str = Field(description="[registry/]name:version of the published image")
    digest: Digest | None = Field(default=None, description="of the published image; unset: build the image here")

    @property
    def published(self) -> str:
        """The address that names one content for ever: the tag is left out, as a registry may move it."""
        return f"docker://{untagged(self.tag)}@{self.digest}"

    def sif(self, name: str) -> Path:
        """Where a local build lies. Its name changes with its content, which is what makes Snakemake run jobs again."""
        key = hashlib.sha256()
        for part in (CONTAINERS / f"{self.recipe}.def", *(CONTAINERS / part for part in PARTS)):
            key.update(_read(part))
        key.update(self.lock_hash.encode())
        return Path("containers/sif") / f"{name}-{key.hexdigest()[:12]}.sif"

    def location(self, name: str) -> str:
        """What Snakemake's `container:` is given: an address, or a path below the working directory."""
        return self.published if self.digest else str(self.sif(name))

    def present(self, name: str) -> str:
        """The location, for Apptainer; raises CftError if it is a file that is not there."""
        if not self.digest and not self.sif(name).is_file():
            raise CftError(f"image {name}: no such file {self.sif(name)}; make it with `cft images build {name}`")
        return self.location(name)


def read(path: Path | str) -> dict[str, Image]:
    """The images of an images.yaml, by name."""
    return check(dict[Name, Image], read_yaml(path), str(path))


def untagged(reference: str) -> str:
    """[registry[:port]/]name of [registry[:port]/]name[:tag]."""
    return re.sub(":[^:/]*$", "", reference)


def lock_hash(lock: str) -> str:
    """The hash that an image of this lock carries as its label."""
    folder = CONTAINERS / "locks"
    return "sha256:" + hashlib.sha256(_read(folder / f"{lock}.txt") + _read(folder / "smollm2.txt")).hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CftError(f"{path}: {error.strerror}")


def base_of(recipe: str) -> str:
    """The base image that a recipe starts from unless told otherwise: name:tag@digest."""
    found = re.search(r"^ *BASE=(\S+@sha256:[0-9a-f]{64})$", _read(CONTAINERS / f"{recipe}.def").decode(), re.M)
    if not found:
        raise CftError(f"containers/{recipe}.def: its BASE is not pinned as name:tag@sha256:…")
    return found[1]


def build(name: str, image: Image, base: str | None = None, options: Iterable[str] = ()) -> None:
    """Build an image; does nothing if it is there.

    `base` is a folder with a root file system to start from instead of the pinned image; its Debian sources then
    serve as they are. `options` go to `apptainer build`. Raises CftError when the lock was changed or the build fails.
    """
    if image.lock_hash != lock_hash(image.lock):
        raise CftError(
            f"image {name}: its lock_hash is not that of locks/{image.lock}.txt; run containers/locks/compile"
        )
    out = image.sif(name)
    if out.is_file():
        return
    arguments = {
        "LOCK": image.lock,
        "LOCK_HASH": image.lock_hash.removeprefix("sha256:"),
        "COMMIT": code_version()["commit"],
        "DATE": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **({"BOOTSTRAP": "localimage", "BASE": str(Path(base).resolve()), "SNAPSHOT": ""} if base else {}),
    }
    words = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
    with replacing(out) as temporary:
        made = _apptainer().build(
            str(CONTAINERS / f"{image.recipe}.def"),
            str(temporary),
            sudo=False,
            options=[*options, *words],
            return_result=True,  # else spython leaves the program
        )
        if not made:
            raise CftError(f"image {name}: the build failed; what Apptainer said is above")
    file_hash(out)


def _apptainer() -> Any:
    """spython's client, quiet about itself; raises CftError where there is no Apptainer."""
    if not shutil.which("singularity"):  # the name that spython calls; Apptainer installs it too
        raise CftError("there is no apptainer command (with its link `singularity`) on this machine; install Apptainer")
    from spython.main import get_client

    return get_client(quiet=False)


def verify(name: str, image: Image) -> int:
    """Compare what is installed in an image with its lock; returns the number of packages.

    Raises CftError naming the packages that differ, or the label that does.
    """
    client, sif = _apptainer(), image.present(name)
    command = ["/opt/cft/pip/bin/pip", "--python", "/opt/cft/venv/bin/python", "freeze", "--all"]
    answer = client.execute(sif, command, options=["--cleanenv", "--no-home"], return_result=True)
    said = answer["message"] if isinstance(answer["message"], str) else "".join(answer["message"])
    if answer["return_code"]:
        raise CftError(f"image {name} ({sif}): pip freeze failed inside: {' '.join(said.split())}")
    differing = differences(_locked(image.lock), _pins(said))
    if differing:
        raise CftError(f"image {name} ({sif}) is not its lock: {'; '.join(differing[:5])} ({len(differing)} packages)")
    labels = client.execute(sif, ["cat", "/.singularity.d/labels.json"], return_result=True)["message"]
    if image.lock_hash.removeprefix("sha256:") not in str(labels):
        raise CftError(f"image {name} ({sif}): none of its labels is the hash of its lock, {image.lock_hash}")
    return len(_locked(image.lock))


def differences(wanted: dict[str, str], found: dict[str, str]) -> list[str]:
    """What makes two sets of pins differ, a text for each package."""
    return [
        f"{name}: the lock has {wanted.get(name, 'none')}, the image {found.get(name, 'none')}"
        for name in sorted(wanted.keys() | found.keys())
        if wanted.get(name) != found.get(name)
    ]


def _pins(text: str) -> dict[str, str]:
    """Package → version of lines such as `name==1.0 \\`, names as PyPI normalises them."""
    found = re.findall(r"^([A-Za-z0-9._-]+)(?:==| @ )(\S+)", text, re.M)
    return {NAMES.sub("-", package).lower(): pinned for package, pinned in found}


def _locked(lock: str) -> dict[str, str]:
    folder = CONTAINERS / "locks"
    return _pins(_read(folder / f"{lock}.txt").decode()) | _pins(_read(folder / "smollm2.txt").decode())


def digest(reference: str, options: Iterable[str] = ()) -> str:
    """The digest that a registry has for name:tag or name@digest, asked through skopeo; CftError if it has none."""
    if not shutil.which("skopeo"):
        raise CftError("there is no skopeo command on this machine; install skopeo")
    command = ["skopeo", "inspect", *options, "--format", "{{.Digest}}", f"docker://{reference}"]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        raise CftError(f"{reference}: {' '.join(answer.stderr.split())}")
    return answer.stdout.strip()
