"""How fast the report opens: made-up scores at the size of the demo and of the whole paper, in a real Chromium.

    python perf/page.py

Writes both pages and loads each of them several times from the disk, without network: until it can be used (the
load event), and until its last chart is drawn, which goes on in idle moments.
"""

import shutil
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from playwright.sync_api import Browser, sync_playwright
from record import ROOT, ROUNDS, compared, keep

from cft import claims, figures, report, tables
from cft.distributions import registry

sys.path.insert(0, str(ROOT / "tests"))
import synthetic

METHODS = [*synthetic.METHODS, "ssot", "temperature"]
SIZES: dict[str, dict[str, Any]] = {
    "demo": {"models": ["SmolLM2-135M"], "methods": synthetic.METHODS, "seeds": [11]},
    "paper": {"models": synthetic.MODELS, "methods": METHODS, "seeds": [11, 12, 13, 14, 15]},
}
TABLES, FIGURES = ("table1", "table2", "table3", "table4"), ("fig2", "fig5", "fig6")


def write(size: dict[str, Any], folder: Path) -> Path:
    """The page of made-up results of this size."""
    folder.mkdir(parents=True, exist_ok=True)
    scores = synthetic.scores(**size)
    paths = {name: folder / f"{name}.csv" for name in ("claims", *TABLES)}
    claims.write(scores, paths["claims"])
    for name in TABLES:
        tables.save(tables.load(name).make(scores), paths[name])
    for name in FIGURES:
        figures.save(*figures.load(name).draw(figures.Sources(scores=scores)), folder / f"{name}.pdf")
    pictures = {name: folder / f"{name}.svg" for name in FIGURES}
    captions = {name: (ROOT / f"workflow/report/{name}.rst").read_text() for name in (*paths, *pictures)}
    text = report.build(
        "Made-up results", {}, scores, paths, pictures, captions, synthetic.RUNS, synthetic.curves(**size), registry()
    )
    (folder / "report.html").write_text(text, encoding="utf-8")
    return folder / "report.html"


def load(browser: Browser, page: Path) -> tuple[float, float]:
    """Seconds until the page is loaded, and until all is drawn."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, offline=True)
    tab = context.new_page()
    started = time.perf_counter()
    tab.goto(page.as_uri(), wait_until="load")
    loaded = time.perf_counter() - started
    tab.wait_for_function("document.documentElement.dataset.drawn === 'all'", timeout=120_000)
    drawn = time.perf_counter() - started
    context.close()
    return loaded, drawn


def main(rounds: Annotated[int, typer.Option(min=1)] = ROUNDS) -> None:
    """Keep the section `page`."""
    rows, sizes = [], []
    with sync_playwright() as tools:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = tools.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, size in SIZES.items():
            page = write(size, ROOT / "results/perf/page" / name)
            loaded, drawn = zip(*[load(browser, page) for _ in range(rounds)], strict=True)
            rows += [compared(f"{name}, loaded", "s", loaded), compared(f"{name}, last chart drawn", "s", drawn)]
            sizes.append(f"{name} {page.stat().st_size / 1e6:.1f} MB")
    keep("page", "The report in Chromium, without network", rows, [f"Size of the page: {', '.join(sizes)}."])


if __name__ == "__main__":
    typer.run(main)
