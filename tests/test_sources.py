"""What stands for code and for families, by which Snakemake knows what to run again; the rules: test_workflow.py."""

import subprocess
import sys

import pytest
import yaml

from cft import CftError, sources
from cft.assets import Assets
from cft.benchmark_settings import McqBenchmark, NoveltyBenchmark, PalomaBenchmark, StructuredBenchmark, TinyBenchmarks
from cft.benchmarks import mcq, novelty, tinybenchmarks
from cft.corpus import write_corpus
from cft.method_settings import SsotMethod
from cft.prompting import instructions
from cft.sources import families_version, upstream_version, version_of
from cft.task_items import SOURCES

TABLE = {
    "quantiles": [0.001, 0.999],
    "families": {
        "both": {"scipy": "norm()", "train": {"max_specs": 1}, "unseen_params": {"max_specs": 1}, "selected": [{}]},
        "held_out": {"scipy": "t()", "unseen_families": {"max_specs": 1}},
    },
}


def test_all_that_a_module_imports_is_known():
    """Against the modules that Python loads; lazy imports and those of commands by name are in addition."""
    code = "import sys, cft.tables.table1; print(*sorted(name for name in sys.modules if name.startswith('cft')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    found = {sources._file(name) for name in loaded}
    assert found <= set(sources.sources("cft.tables.table1")) and len(found) > 10
    assert sources._file("cft.train") not in sources.sources("cft.tables.table1")
    with pytest.raises(FileNotFoundError, match=r"cft\.tables\.table99"):
        version_of("cft.tables.table99")


def test_a_version_is_of_the_code(monkeypatch, tmp_path):
    package = tmp_path / "cft"
    package.mkdir()
    (package / "first.py").write_text("from cft.second import number\n")
    monkeypatch.setattr(sources, "ROOT", tmp_path)

    def version(text):
        (package / "second.py").write_text(text)
        version_of.cache_clear()
        sources._read.cache_clear()
        return version_of("cft.first")

    before = version("number = 1\n")
    assert version("# a remark\nnumber   =  1\n") == before != version("number = 2\n")


@pytest.mark.parametrize(
    ("family", "key", "for_training"),
    [("both", "scipy", True), ("both", "train", True), ("both", "unseen_params", False), ("both", "selected", False),
     ("held_out", "scipy", False)],
)  # fmt: skip
def test_training_depends_on_what_it_reads(tmp_path, family, key, for_training):
    versions = []
    for change in ({}, {key: "other"}):
        rows = TABLE["families"] | {family: TABLE["families"][family] | change}
        path = tmp_path / f"{len(change)}.yaml"
        path.write_text(yaml.safe_dump(TABLE | {"families": rows}))
        versions.append((families_version(path), families_version(path, trained_on=True)))
    (whole, trained), (whole_after, trained_after) = versions
    assert whole != whole_after and (trained != trained_after) == for_training


@pytest.mark.parametrize("text", ["[]", "families: 3", "families: {one: 3}", "quantiles: [0, 1]"])
def test_a_file_without_families_is_told(tmp_path, text):
    (tmp_path / "table.yaml").write_text(text)
    with pytest.raises(CftError, match="no families"):
        families_version(tmp_path / "table.yaml")


class Asked(Assets):
    """Upstream files that note which of their rows was asked for, and have none."""

    def __init__(self):
        self.names = []

    def _find(self, name, kind):
        self.names.append(name)
        raise CftError("noted")

    def by(self, function, *arguments):
        with pytest.raises(CftError, match="noted"):
            function(*arguments)
        return self.names.pop()


def test_settings_name_the_upstream_files_that_are_read(tmp_path):
    asked, paper = Asked(), McqBenchmark(draws=1, max_new_tokens=1, prompt="paper")
    assert [asked.by(mcq.prompts, paper, None, asked)] == paper.upstream()
    chosen = NoveltyBenchmark(draws=1, max_new_tokens=1)
    assert asked.by(novelty.prompts, chosen, None, asked) in chosen.upstream() == list(novelty.SPLITS.values())
    tiny, whole = TinyBenchmarks(), TinyBenchmarks(extended=True)
    irt = asked.by(tinybenchmarks.parameters, tiny, asked)
    assert {source.asset for source in SOURCES.values()} | {irt} == set(whole.upstream()) > set(tiny.upstream())
    assert asked.by(tinybenchmarks.prompts, tiny, None, asked) in tiny.upstream()
    assert [asked.by(write_corpus, PalomaBenchmark(), asked, tmp_path / "out")] == PalomaBenchmark().upstream()
    seeds = SsotMethod(kind="ssot", instructions="paper", benchmarks=["open_ended"])
    assert asked.by(instructions, seeds, asked) in seeds.upstream() == ["ssot_open_system", "ssot_open_developer"]
    own = McqBenchmark(draws=1, max_new_tokens=1), StructuredBenchmark(draws=1, max_new_tokens=1)
    assert not any(one.upstream() for one in (*own, SsotMethod(kind="ssot"), PalomaBenchmark(data="generated")))


def test_an_upstream_file_stands_for_its_row_alone(tmp_path):
    path, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    path.write_text("a: {revision: 1}\nb: {revision: null}\n")
    other.write_text("a: {revision: 1}\nb: {revision: 2}\n")
    assert upstream_version(path, ("a",)) == upstream_version(other, ("a",)) != upstream_version(path, ("b",))
    assert upstream_version(path, ("b",)) != upstream_version(other, ("b",))
    assert upstream_version(tmp_path / "none.yaml", ()) == ""
    path.write_text("[]")
    with pytest.raises(CftError, match=r"one\.yaml: no upstream files"):
        upstream_version(str(path), ("a",))
