"""The page: it needs nothing but itself, says what was run, and works in a real browser (Chromium, if there is one)."""

import re
import shutil
from html.parser import HTMLParser

import pytest
import synthetic
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from cft import claims, figures, report, tables
from cft.distributions import registry

MODELS = ("SmolLM2-135M", "Other-1B")
SEEDS = (11, 12)
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects tags; complains about tags that are not closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if "script" not in self.open else ""

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The page as a file."""
    folder = tmp_path_factory.mktemp("report")
    scores = synthetic.scores(MODELS, seeds=SEEDS)
    paths = {name: folder / f"{name}.csv" for name in ("claims", "table1", "table2")}
    claims.write(scores, paths["claims"])
    for name in ("table1", "table2"):
        tables.save(tables.load(name).make(scores), paths[name])
    figures.save(*figures.load("fig2").draw(figures.Sources(scores=scores)), folder / "fig2.pdf")
    settings = {"draws per prompt": {"structured": 1000}, "training steps": 150, "note": "<b>escaped</b>"}
    captions = {"table1": "The ``first``.\n\nSecond & last.", "fig2": "Fidelity."}
    curves = synthetic.curves(MODELS, seeds=SEEDS)
    curves.at[0, "samples"] = ["</script><script>alert(1)</script>", "1\n2", ""]
    pictures = {"fig2": folder / "fig2.svg"}
    text = report.build(
        "A demo", settings, scores, paths, pictures, captions, synthetic.RUNS, curves, registry()
    )  # fmt: skip
    (folder / "report.html").write_text(text, encoding="utf-8")
    return folder / "report.html"


@pytest.fixture(scope="module")
def parsed(made):
    return Page(made.read_text())


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with sync_playwright() as tools:
        started = tools.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture(params=[1200, 390], ids=["desktop", "phone"])
def page(browser, made, request):
    """The page in a browser without network, all charts drawn; fails if it complained or asked for anything else."""
    context = browser.new_context(viewport={"width": request.param, "height": 850}, offline=True)
    opened, said, asked = context.new_page(), [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda wanted: asked.append(wanted.url))
    opened.goto(made.as_uri())
    drawn(opened)
    yield opened
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [made.as_uri()]
    context.close()


def drawn(page):
    page.wait_for_function("document.documentElement.dataset.drawn === 'all'")


def test_the_page_needs_no_other(parsed):
    assert not parsed.all("link")
    sources = [attributes[name] for _, attributes in parsed.tags for name in ("src", "srcset") if attributes.get(name)]
    (image,) = sources
    assert image.startswith("data:image/svg+xml;base64,")
    (policy,) = [each for each in parsed.all("meta") if "http-equiv" in each]
    assert "default-src 'none'" in policy["content"] and "http" not in policy["content"]


def test_the_page_is_accessible(parsed):
    assert parsed.all("html") == [{"lang": "en"}]
    assert parsed.all("th") and all(cell.get("scope") in ("col", "row") for cell in parsed.all("th"))
    assert len(parsed.all("caption")) == len(parsed.all("table"))
    assert all("alt" in image for image in parsed.all("img"))
    identifiers = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert {link["href"].removeprefix("#") for link in parsed.all("a")} <= set(identifiers)


def test_the_claims_come_first(made, parsed):
    text = made.read_text()
    assert text.index('id="claims"') < text.index('id="results"') < text.index('id="fig2"') < text.index('id="table1"')
    verdicts = re.findall(r'<span class="verdict \w+">([\w ]+)</span>', text)
    ran = len(verdicts) - verdicts.count("not run")
    assert 0 < ran < len(verdicts) and "not run" not in verdicts[:ran]
    assert f"{verdicts.count('undecided')} undecided, {verdicts.count('not run')} not run." in parsed.text


def test_the_page_says_what_was_run(made, parsed):
    facts = ["commit abc123 with uncommitted changes", "A processor, 2 cores", "torch 2.13.0", "structured 1,000",
             "2026-05-20 to 2026-05-21", "cft-finetune 0123abc", "A card (driver 580.1)"]  # fmt: skip
    assert not [fact for fact in facts if fact not in parsed.text]
    assert "&lt;b&gt;escaped" in made.read_text() and "<p>The first.</p><p>Second &amp; last.</p>" in made.read_text()


def test_a_report_without_the_structured_benchmark():
    scores = synthetic.scores()
    other = scores[scores["benchmark"] == "mcq"]
    text = report.build("t", {}, other, {}, {}, {}, [], synthetic.curves().head(0), registry())
    assert "Key results" not in Page(text).text and "vegaEmbed =" not in text


def test_every_family_and_prompt_has_its_chart(page):
    families = {prompt.family for prompt in synthetic.PROMPTS}
    assert page.locator("[data-chart] svg").count() == len(families)
    assert page.locator("#choice select[name=prompt] option").count() == len(synthetic.PROMPTS)
    # A panel per method: the law's band, the draws, the target.
    assert page.locator("#chart-prompt svg .mark-area path").count() == 3
    assert page.locator("#chart-prompt svg .mark-line path").count() == 6
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_rows_are_filtered(page):
    def shown(key):
        rows = page.locator("table.data tbody tr:visible").evaluate_all("rows => rows.map(row => ({...row.dataset}))")
        return {row[key] for row in rows if key in row}

    assert shown("model") == set(MODELS) and shown("method") >= {"base", "soft", "hard"}
    page.select_option("#filters select[name=model]", MODELS[1])
    page.select_option("#filters select[name=method]", "soft")
    assert shown("model") == {MODELS[1]} and shown("method") == {"soft"}
    page.select_option("#filters select[name=family]", "gaussian")
    assert page.locator("section[data-family]:visible").count() == 1
    assert page.locator("#results li").count() > page.locator("#results li:visible").count() > 0
    visible = page.locator("table.data tbody tr:visible").count()
    assert page.inner_text("#filters output").startswith(f"{visible} of ")
    drawn(page)
    assert page.input_value("#choice select[name=model]") == MODELS[1]
    page.fill("#filters input", "no row says this")
    assert shown("model") == set() and page.inner_text("#filters output").startswith("0 of")


def test_tables_are_sorted_by_number(page):
    table = page.locator("#table1 table")
    heading = table.locator("thead th").nth(4)
    for order in ("ascending", "descending"):
        heading.locator("button").focus()
        page.keyboard.press("Enter")
        assert heading.get_attribute("aria-sort") == order
        cells = table.locator("tbody tr td:nth-child(5)").all_inner_texts()
        values = [float(cell.split()[0].replace(",", "")) for cell in cells if cell != "–"]
        assert values == sorted(values, reverse=order == "descending") and len(set(values)) > 1


def test_a_chosen_prompt_shows_its_numbers_and_draws(page, made):
    first = synthetic.PROMPTS[0].prompt_id
    page.select_option("#choice select[name=prompt]", first)
    rows = page.locator("#numbers tbody tr")
    page.wait_for_function("document.querySelectorAll('#numbers tbody tr').length === 3")
    assert rows.locator("th").all_inner_texts() == ["base", "soft", "hard"]
    # Texts are shown, not run.
    assert rows.nth(0).locator("code").first.inner_text() == "</script><script>alert(1)</script>"
    assert rows.nth(0).locator("code").nth(1).inner_text() == "1¶2"
    scores = synthetic.scores(MODELS, seeds=SEEDS)
    page.select_option("#choice select[name=seed]", "12")
    expected = scores.query(
        "model == @MODELS[0] and method == 'soft' and seed == 12 and item == @first and metric == 'pit_w1'"
    )
    page.wait_for_function(
        "wanted => document.querySelector('#numbers tbody tr:nth-child(2) td:nth-child(6)').innerText === wanted",
        arg=f"{expected['value'].item():.3g}",
    )
    before = page.locator("#chart-prompt").inner_html()
    page.select_option("#choice select[name=prompt]", synthetic.PROMPTS[5].prompt_id)
    page.wait_for_function("before => document.getElementById('chart-prompt').innerHTML !== before", arg=before)
    assert page.inner_text("#question") == synthetic.PROMPTS[5].text
    assert page.inner_text("#whose") == f"{MODELS[0]}, seed 12"


def test_a_run_of_another_seed_says_so(page):
    """What was run at one seed only stands beside every seed, under its own."""
    page.evaluate("fillNumbers([{method: 'base', seed: 11, numbers: {n: 1024, p_fit: 0}}], '12')")
    cells = page.locator("#numbers tbody tr").first.locator("th, td").all_inner_texts()
    assert cells[:2] == ["base (seed 11)", "1024"] and cells[7] == "<0.0001"


def test_text_chooses_rows_and_draws_no_chart_again(page):
    page.wait_for_function("document.documentElement.dataset.drawn === 'all'")
    page.locator("#filters input[name=text]").press("s")
    assert page.evaluate("document.documentElement.dataset.drawn") == "all"
    page.select_option("#filters select[name=method]", "soft")
    assert page.evaluate("document.documentElement.dataset.drawn ?? 'none'") == "none"


def test_a_figure_is_enlarged_by_keyboard(page):
    page.locator("#fig2 .enlarge").focus()
    page.keyboard.press("Enter")
    image = page.locator("#zoom img")
    width = image.evaluate("image => image.clientWidth")
    page.get_by_role("button", name="Larger").click()
    assert image.evaluate("image => image.clientWidth") > 1.2 * width
    page.keyboard.press("Escape")
    assert not image.is_visible()


def test_in_print_charts_are_there_and_controls_are_not(page):
    page.emulate_media(media="print")
    charts = page.locator("[data-chart] svg").all()
    assert charts and all(chart.is_visible() for chart in charts)
    assert not page.locator("#filters").is_visible()
    assert page.pdf()[:5] == b"%PDF-"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_that_keeps_anyone_out(page, scheme):
    """Contrast, names, roles and order by axe-core, with a prompt's numbers and every chart on the page."""
    page.emulate_media(color_scheme=scheme)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert {"color-contrast", "button-name", "image-alt"} <= {rule["id"] for rule in found.response["passes"]}
