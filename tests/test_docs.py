"""The documentation: its commands run or can be planned, its links and paths lead somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import synthetic
from command import cft

from cft import figures, tables
from cft.claims import claims

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "config/README.md", *sorted((ROOT / "docs").glob("*.md"))]
BIN = Path(sys.executable).parent
# What only the tests of images and cluster can run, or needs the outputs of a demo.
ELSEWHERE = (
    "cft images",
    "cft status",
    "FILE",
    "--profile",
    "--workflow-profile",
    "--report",
    "cft sample",
    "cft card",
    "cft fit",
    "cft score",
)


def commands(page: Path) -> list[str]:
    """The lines of indented blocks and the pieces of code that call snakemake or cft, without comments."""
    text = page.read_text().replace("\\\n", " ")
    blocks = re.findall(r"^    ((?:snakemake|cft) .*)$", text, re.M)
    pieces = re.findall(r"`((?:snakemake|cft) [^`]*)`", text.replace("\n", " "))
    return [re.split(r"\s+#", line)[0].strip() for line in (*blocks, *pieces)]


ALL = sorted({line for page in PAGES for line in commands(page) if "…" not in line})
HERE = {line.removesuffix(" -n") for line in ALL if not any(part in line for part in ELSEWHERE)}


def test_commands_were_found():
    assert sum(line.startswith("cft") for line in ALL) > 6 and sum(line.startswith("snakemake") for line in ALL) > 6


@pytest.mark.parametrize("line", [line for line in ALL if line.startswith("cft")])
def test_options_of_cft_exist(line):
    words = shlex.split(line)
    name = [words[1]] if words[1] != "images" else words[1:3]
    done = cft(*name, "--help")
    assert done.returncode == 0, done.stderr
    for option in (word for word in words if word.startswith("--")):
        assert re.search(rf"{option}\b", done.stdout), option


@pytest.mark.parametrize("line", sorted(HERE))
def test_commands_run(line):
    command, *words = shlex.split(line)
    if command == "cft":
        done = cft(*words, cwd=ROOT)
    else:
        done = subprocess.run([BIN / command, *words, "-n"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]


def test_make_knows_what_the_pages_name():
    known = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {name for page in PAGES for name in re.findall(r"(?:`|^    )make ([\w-]+)", page.read_text(), re.M)}
    assert len(named) > 4 and named <= known


def test_the_map_has_every_claim_of_ours():
    """Its second table names rows of claims.csv by their first words."""
    rows = re.findall(r"^\|[^|]*\|([^|`]*)\| \w+ \|$", (ROOT / "docs/paper-map.md").read_text(), re.M)
    words = [part.strip() for row in rows for part in row.split(",") if part.strip()]
    begins = {each.replace("METHOD", method) for each in words for method in ("soft", "hard")}
    every = claims(synthetic.scores())["claim"]
    assert all(any(claim.startswith(begin) for begin in begins) for claim in every)
    for each in words:
        assert any(re.match(each.replace("METHOD", "(soft|hard)"), claim) for claim in every), each


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text()
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / link).exists(), link
    for path in re.findall(r"`((?:src|config|docs|tests|perf|workflow)/[\w./-]+)`", text):
        assert "NAME" in path or (ROOT / path).exists(), path
    for kind, package in (("figures", figures), ("tables", tables)):
        for name in re.findall(rf"results/{kind}/(\w+)\.", text):
            assert package.load(name)
