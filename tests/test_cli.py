"""The command line as a person meets it: output, errors in one line, exit codes."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import synthetic
import torch
from command import cft

from cft import cli

CFT = Path(sys.executable).with_name("cft")


def fails(*arguments, **options):
    """The one line that a failing command prints."""
    result = cft(*arguments, **options)
    assert result.returncode == 1, result
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("cft: "), result.stderr
    return lines[0]


def test_help_imports_nothing_heavy():
    heavy = ["torch", "pandas", "scipy", "matplotlib", "pydantic"]
    code = f"import sys, cft.cli; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    start = time.monotonic()
    assert "finetune" in subprocess.run([CFT, "--help"], capture_output=True, text=True).stdout
    assert time.monotonic() - start < 5  # the promise is half a second; this only catches a heavy import


def test_bars_of_libraries_stay_out_of_logs():
    code = "from cft.cli import _start; _start(); from tqdm.auto import tqdm; list(tqdm(range(9)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stderr == b""


def test_prompts(golden_rows):
    rows = [json.loads(line) for line in cft("prompts").stdout.splitlines()]
    assert len(rows) == 1988 + 591 + 92
    wanted = {row["prompt"]: row for row in golden_rows("prompts")}
    for row in rows:
        assert {key: row[key] for key in ("split", "family", "parameters")} == {
            key: wanted[row["prompt"]][key] for key in ("split", "family", "parameters")
        }
    chosen = cft("prompts", "--split", "unseen_families", "--selected").stdout.splitlines()
    assert len(chosen) == 18 and all(wanted[json.loads(line)["prompt"]]["selected"] for line in chosen)
    assert "unknown split 'test'" in fails("prompts", "--split", "test")


def test_files_that_we_did_not_write_are_kept(tmp_path, tiny):
    own = tmp_path / "own"
    shutil.copytree(tiny("llama"), own)
    for name in ("model.json", "run.json"):
        (own / name).unlink()
    before = sorted(path.name for path in own.iterdir())
    source = json.dumps({"source": "folder", "path": str(own), "dtype": "float32"})
    assert "choose another folder" in fails("model", "--settings", source, "--out", own, "--replace")
    assert "choose another folder" in fails("model", "--settings", source, "--out", tmp_path, "--replace")
    target = ["fit", "examples/loaded-die.yaml", "--model", own, "--models", tmp_path, "--out", tmp_path / "fit"]
    assert "choose another folder" in fails(*target)
    assert "holds files that cft did not write" in fails("tiny-model", "llama", "--out", own)
    corpus = ["--settings", '{"data": "generated", "context": 64, "stride": 32}']
    assert "holds files that cft did not write" in fails("corpus", *corpus, "--out", own)
    train = ["finetune", "--model", tiny("llama"), "--data", tmp_path, "--settings", SOFT, "--seed", 1]
    assert "holds files that cft did not write" in fails(*train, "--out", own)
    assert sorted(path.name for path in own.iterdir()) == before

    made = tmp_path / "made"
    for _ in range(2):  # our own may be written anew
        assert cft("model", "--settings", source, "--out", made).returncode == 0
    (made / "run.json").unlink()
    assert "holds files" in fails("model", "--settings", source, "--out", made)
    assert cft("model", "--settings", source, "--out", made, "--replace").returncode == 0


def test_a_table_is_called_one(tmp_path):
    for words in (["score", "structured", "draws.jsonl"], ["scores", "one.parquet"], ["irt", "--settings", "{}"]):
        assert "a name that ends with .parquet" in fails(*words, "--out", tmp_path / "x.csv")


def test_target():
    assert "given twice: p=0.25 p=0.5" in fails("target", "bernoulli", "p=0.25", "p=0.5")
    lines = cft("target", "bernoulli", "p=0.25").stdout.splitlines()
    assert lines[0] == "value,probability"
    assert {v: float(p) for v, p in (line.split(",") for line in lines[1:])} == pytest.approx({"0": 0.75, "1": 0.25})
    lines = cft("target", "gaussian", "mu=0", "sigma=1", "--decimals", 1, "--max-bins", 31).stdout.splitlines()
    assert len(lines) == 32 and lines[1].startswith("-3.0,")
    assert "unknown family 'normal'; known: uniform" in fails("target", "normal", "mu=0")
    assert "gaussian: parameters are mu, sigma; missing sigma" in fails("target", "gaussian", "mu=0")
    assert "must have sigma > 0" in fails("target", "gaussian", "mu=0", "sigma=-1")
    assert "must have p <= 1" in fails("target", "bernoulli", "p=1.5")
    assert "name=value" in fails("target", "bernoulli", "p")


def test_score_a_file_from_elsewhere(tmp_path, golden_rows):
    for row in golden_rows("structured_scores"):
        lines = [{"family": row["family"], "parameters": row["parameters"], "text": text} for text in row["texts"]]
        (tmp_path / "draws.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        found = json.loads(cft("score", "structured", tmp_path / "draws.jsonl").stdout)
        for key in ("valid_rate", "support_violation_rate", "mean_error", "variance_error"):
            wanted = None if row[key] != row[key] else pytest.approx(row[key], rel=1e-9)
            assert found[key] == wanted
        assert found["w1_valid_only"] == pytest.approx(row["w1"], rel=1e-9)


def test_bad_draws(tmp_path):
    draws = tmp_path / "draws.jsonl"
    assert "no such file" in fails("score", "structured", draws)
    draws.write_text("")
    assert "holds no draws" in fails("score", "structured", draws)
    draws.write_bytes(b'{"prompt_id": "bernoulli(p=0.5)", "text": "\xff"}\n')
    assert "not UTF-8" in fails("score", "structured", draws)
    draws.write_text('{"prompt_id": "bernoulli(p=0.5)", "text": "1"}\n{"prompt')
    assert "line 2 is not valid JSON" in fails("score", "structured", draws)
    draws.write_text('{"prompt_id": "coin(p=0.5)", "text": "1"}\n')
    assert "unknown family 'coin'" in fails("score", "structured", draws)
    assert re.search("unknown benchmark 'structred'; known: .*mcq, .*structured", fails("score", "structred", draws))
    whose = '"prompt_id": "gaussian(mu=3.5,sigma=3.0)", "text": "3"'
    draws.write_text(f'{{{whose}, "method": "base"}}')
    assert "draws.jsonl: no column model; tidy" in fails("score", "structured", draws, "--out", tmp_path / "s.parquet")
    lines = [
        f'{{{whose}, "model": "{model}", "method": "base", "seed": 1, "benchmark": "structured"}}' for model in "ab"
    ]
    draws.write_text("\n".join(lines))
    line = fails("score", "structured", draws, "--out", tmp_path / "s.parquet")
    assert "has several: model a, b; score a file of each" in line and not (tmp_path / "s.parquet").exists()
    pd.DataFrame({"prompt_id": ["bernoulli(p=0.5)"], "text": ["1"]}).to_parquet(tmp_path / "draws.parquet")
    content = (tmp_path / "draws.parquet").read_bytes()
    (tmp_path / "draws.parquet").write_bytes(content[:-10])
    assert "not a readable parquet file" in fails("score", "structured", tmp_path / "draws.parquet")


def test_bad_settings(tmp_path):
    assert "unknown key sead" in fails(
        "data", "--settings", '{"kind": "finetune", "sead": 1}', "--seed", 1, "--out", tmp_path
    )
    assert "tiny" in fails("model", "--settings", '{"source": "tinny"}', "--out", tmp_path / "m")
    assert not list(tmp_path.iterdir())
    (tmp_path / "c.yaml").write_text("titel: x\n")
    assert "unknown key titel" in fails("check", tmp_path / "c.yaml")
    assert cft("data", "--seed", 1).returncode == 2  # a missing option is a usage error


def test_a_missing_model_folder_is_named(tmp_path):
    prompts = tmp_path / "p.parquet"
    pd.DataFrame({"prompt_id": ["city"], "prompt": ["x"]}).to_parquet(prompts)
    line = fails("sample", "open_ended", "--settings", '{"draws": 1, "max_new_tokens": 1}', "--prompts", prompts,
                 "--model", tmp_path / "none", "--seed", 1, "--out", tmp_path / "o.parquet")  # fmt: skip
    assert "is not a prepared model" in line
    assert not (tmp_path / "o.parquet").exists()


def test_draws_of_one_prompt(tiny):
    """Nothing but the draws on standard output, one a line, the same for the same seed."""
    ask = ("sample", "--prompt", "give a number", "--model", tiny("llama"), "--max-new-tokens", 100)
    first, few = (cft(*ask, "--n", n, "--seed", 3) for n in (30, 7))
    assert first.returncode == 0 and "sample 30/30 draws" in first.stderr
    lines = first.stdout.splitlines()
    assert first.stdout.count("\n") == len(lines) == 30 and few.stdout.splitlines() == lines[:7]
    assert 0 < sum(line.endswith(" …[cut]") for line in lines) < 30
    other = cft(*ask, "--n", 30, "--seed", 4, env={**os.environ, "PYTHONIOENCODING": "ascii"}).stdout
    assert other.isascii() and other.count("\n") == 30 and " ...[cut]\n" in other
    assert other.replace(" ...[cut]", " …[cut]") != first.stdout


def test_a_histogram_of_one_prompt(tiny):
    ask = ("sample", "--prompt", "one number from a Bernoulli with p=0.25", "--model", tiny("llama"), "--histogram",
           "--n", 5, "--max-new-tokens", 2)  # fmt: skip
    page = cft(*ask, env={**os.environ, "COLUMNS": "60"}).stdout
    assert page.startswith("bernoulli(p=0.25), 5 draws\n") and max(map(len, page.splitlines())) <= 60
    assert "75.0 %" in page and "25.0 %" in page and "█" in page
    plain = cft(*ask, env={**os.environ, "COLUMNS": "60", "PYTHONIOENCODING": "ascii"}).stdout
    assert plain.isascii() and "75.0 %" in plain and "#" in plain


def test_files_of_another_kind_are_named(tmp_path):
    draws = tmp_path / "draws.parquet"
    pd.DataFrame({"prompt_id": ["a"], "text": ["1"]}).to_parquet(draws)
    for command in (
        ["table", "table1", "--scores"],
        ["claims", "--scores"],
        ["figure", "fig2", "--scores"],
        ["scores"],
    ):
        line = fails(*command, draws, "--out", tmp_path / ("out.parquet" if command == ["scores"] else "out.csv"))
        assert f"{draws}: no column benchmark, item, method, metric, model, seed, split, value; it has" in line
    assert f"{draws}: no column benchmark, draw" in fails(
        "figure", "fig3", "--draws", draws, "--out", tmp_path / "f.pdf"
    )
    assert "a score file is named twice" in fails("scores", draws, draws, "--out", tmp_path / "all.parquet")
    assert list(tmp_path.iterdir()) == [draws]


def test_a_figure_of_draws_reads_the_answers_of_prompting_methods(tmp_path):
    drawn = synthetic.draws(methods=["base"], count=20).query("benchmark == 'structured'")
    told = drawn.assign(method="ssot", text="<random_string>q</random_string><answer>" + drawn["text"] + "</answer>")
    pd.concat([drawn, told]).to_parquet(tmp_path / "draws.parquet")
    settings = json.dumps({"kind": "ssot", "benchmarks": ["structured"]})
    instructions = tmp_path / "ssot.json"
    assert cft("instructions", "--settings", settings, "--out", instructions).returncode == 0
    command = ["figure", "fig3", "--draws", tmp_path / "draws.parquet", "--out", tmp_path / "f.pdf"]
    for more, same in ([], False), (["--instructions", instructions], True):
        done = cft(*command, *more)
        assert done.returncode == 0, done.stderr
        valid = pd.read_csv(tmp_path / "f.csv").groupby("method")["valid"].max()
        assert valid["base"] > 0 and (valid["ssot"] == valid["base"]) == same


def test_what_cannot_be_written_is_said_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    answer = cft("finetune", "--model", tmp_path, "--data", tmp_path, "--settings", SOFT, "--seed", 1,
                 "--out", tmp_path / "file")  # fmt: skip
    assert answer.returncode == 2 and "is a file" in answer.stderr
    answer = cft("sample", "mcq", "--model", tmp_path, "--out", tmp_path)
    assert answer.returncode == 2 and "is a directory" in answer.stderr


def test_too_little_memory_of_a_gpu_is_one_line():
    told = cli._one_line(torch.OutOfMemoryError("CUDA out of memory"))
    assert told.startswith("out of GPU memory") and "lower cache_tokens, window_tokens or micro_batch" in told


def test_the_two_uses_of_sample(tmp_path):
    model = ("--model", tmp_path / "none")
    assert "--prompt does not go with a benchmark, --out" in fails(
        "sample", "mcq", *model, "--prompt", "x", "--out", tmp_path / "o.parquet")  # fmt: skip
    assert "a benchmark does not go with --n, --histogram" in fails("sample", "mcq", *model, "--n", 3, "--histogram")
    for incomplete in (("--n", 3), ("mcq", "--settings", "{}", "--seed", 1)):
        assert "needs --prompt, or a benchmark with --settings" in fails("sample", *model, *incomplete)
    assert "temperature: Input should be greater than or equal to 0.01" in fails(
        "sample", *model, "--prompt", "x", "--temperature", 0)  # fmt: skip
    assert "engine: Input should be 'transformers' or 'vllm'" in fails(
        "sample", *model, "--prompt", "x", "--engine", "llama")  # fmt: skip
    assert "is not a prepared model" in fails("sample", *model, "--prompt", "x")
    assert cft("sample", "--prompt", "x").returncode == 2  # no model
    assert not list(tmp_path.iterdir())


SOFT = '{"kind": "finetune", "labels": "law", "average": "value", "max_bins": 1001, "epochs": 1, "draws": 1}'


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 kB; skips where it may not be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_nothing(small_disk):
    line = fails("data", "--settings", SOFT, "--seed", 1, "--out", small_disk / "data")
    assert "the disk is full" in line and "free some space and run again" in line
    assert not list((small_disk / "data").iterdir())


def test_traceback_only_when_asked(tmp_path):
    assert "Traceback" in cft("--debug", "target", "normal", "mu=0").stderr


def test_a_cancelled_job_takes_its_temporary_files_along(tmp_path):
    script = (
        "import sys, time, pathlib; from cft import cli, provenance\n"
        "def work():\n"
        f"    with provenance.replacing(pathlib.Path({str(tmp_path)!r}) / 'out') as temporary:\n"
        "        temporary.write_text('half'); print('started', flush=True); time.sleep(60)\n"
        "cli.app = work\n"
        "cli.main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"started\n"
    assert list(tmp_path.iterdir())
    process.terminate()
    assert process.wait(30) == 143
    assert not list(tmp_path.iterdir())
