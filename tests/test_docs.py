"""The site as a reader sees it: built from the notebooks and opened in a headless Chromium."""

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.browser import Page, open_browser
from tests.conftest import ROOT

PAGES = ["index.html", "attention.html", "api/core.html"]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing: pytest's output is for results."""


@pytest.fixture(scope="module")
def build() -> str:
    """What the build of the site says; the pages are in _docs/ afterwards."""
    if not shutil.which("npm") and not (ROOT / ".cache" / "katex").exists():
        pytest.skip("found no npm; expected it to fetch KaTeX for the site. Run: apt-get install npm")
    done = subprocess.run([sys.executable, "tools/build_docs.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"the site was not built:\n{done.stderr[-1500:]}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def site(build: str) -> Iterator[str]:
    """The address of the freshly built site, served on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(ROOT / "_docs")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_browser(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


def test_no_link_leads_nowhere(build: str) -> None:
    assert [line for line in build.splitlines() if "broken link" in line] == []


@pytest.mark.parametrize("name", PAGES)
def test_page_is_whole_and_asks_nobody_else(page: Page, site: str, name: str) -> None:
    page.open(site + name)
    assert page.evaluate("document.querySelector('h1').innerText.trim().length") > 0
    assert page.errors == []
    assert [url for url in page.requests if not url.startswith((site, "data:", "blob:"))] == []


def test_mathematics_is_drawn(page: Page, site: str) -> None:
    page.open(site + "attention.html")
    page.wait("document.querySelectorAll('.katex-html').length > 5")
    assert page.evaluate("document.querySelectorAll('.katex-error').length") == 0
    assert page.evaluate("document.querySelectorAll('.tag').length") >= 1, "numbered equations"
    page.wait("[...document.fonts].some(font => font.family.includes('KaTeX') && font.status === 'loaded')")
    text = page.evaluate("document.querySelector('main').innerText")
    assert not re.search(r"\$\$|\\frac|\\tag", text), "an equation was left as source"


EQUATIONS = ["attention", "transformer", "language_model", "losses", "metrics", "beyond_accuracy"]
OVERLAPS = """[...document.querySelectorAll(".katex-display .katex-html:has(> .tag)")].filter(equation => {
  const tag = equation.querySelector(":scope > .tag").getBoundingClientRect();
  const glyphs = [...equation.querySelectorAll(":scope > .base")].map(base => base.getBoundingClientRect());
  return glyphs.some(box => box.right > tag.left + 1 && box.bottom > tag.top && box.top < tag.bottom);
}).map(equation => equation.innerText.slice(0, 60))"""


@pytest.mark.parametrize("name", EQUATIONS)
@pytest.mark.parametrize("width", [390, 1280])
def test_equations_keep_clear_of_their_numbers(page: Page, site: str, name: str, width: int) -> None:
    page.send("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    page.open(f"{site}{name}.html")
    page.wait("document.querySelectorAll('.katex-html').length > 1")
    assert page.evaluate("document.querySelectorAll('.katex-error').length") == 0
    assert page.evaluate(OVERLAPS) == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, "the page is wider than the window"
    page.send("Emulation.clearDeviceMetricsOverride")


def test_pictures_have_words(page: Page, site: str) -> None:
    page.open(site + "attention.html")
    words = page.evaluate("[...document.querySelectorAll('main .cell-output img')].map(image => image.alt)")
    assert len(words) > 4 and all(words), words


def test_numbers_of_a_table_stand_apart(page: Page, site: str) -> None:
    page.open(site + "metrics.html")
    assert page.evaluate("parseFloat(getComputedStyle(document.querySelector('table.dataframe td')).paddingLeft)") > 4


def test_source_can_be_unfolded(page: Page, site: str) -> None:
    page.open(site + "attention.html")
    sources = page.evaluate("[...document.querySelectorAll('details.code-fold')].map(d => d.textContent)")
    assert any("def attention(" in source and "return" in source for source in sources)


def test_reference_shows_types_and_explanations(page: Page, site: str) -> None:
    page.open(site + "api/core.html")
    text = page.evaluate("document.querySelector('main').innerText")
    assert "CrossrecError" in text and "cache_folder" in text
    assert page.evaluate("document.querySelectorAll('main table').length") > 3


def test_search_finds_attention(page: Page, site: str) -> None:
    page.open(site + "index.html")
    page.evaluate("document.querySelector('#quarto-search input').focus()")
    page.send("Input.insertText", text="attention")
    page.wait("document.querySelector('#quarto-search a.search-result')")
    found = page.evaluate("[...document.querySelectorAll('#quarto-search a.search-result')].map(a => a.href)")
    assert any("/attention.html" in link for link in found), found
    assert page.errors == []


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(page: Page, site: str, name: str, scheme: str) -> None:
    page.open(site + name)
    show(page, scheme)
    for place in ("main p, main td", "main pre code, main pre", "#quarto-sidebar a", "nav.navbar a"):
        enough = f"(({CONTRAST % place}) ?? 21) >= 4.5"
        page.wait(enough, what=f"{place} with a contrast of 4.5 in {scheme} mode")  # the browser may still be painting
        assert page.evaluate(enough), f"{place} in {scheme} mode"


def show(page: Page, scheme: str) -> None:
    """Switch the site to light or dark, as a reader does with the button in the bar."""
    dark = "document.documentElement.dataset.scheme === 'alternate'"
    if page.evaluate(dark) != (scheme == "dark"):
        page.evaluate("document.querySelector('.quarto-color-scheme-toggle').click()")
    page.wait(dark if scheme == "dark" else f"!({dark})")
    page.wait("[...document.querySelectorAll('link.quarto-color-scheme')].every(l => l.media !== 'all' || l.sheet)")


# The contrast between a text and the ground it stands on, by the formula of the Web Content Accessibility Guidelines;
# the worst of the visible places that a selector finds, null where there is none.
CONTRAST = """(() => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const linear = part => part <= .03928 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4;
  const light = colour => {
    const [red, green, blue] = numbers(colour).map(part => linear(part / 255));
    return .2126 * red + .7152 * green + .0722 * blue;
  };
  const ground = element => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor, [, , , opacity = 1] = numbers(colour);
      if (opacity > .5) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const contrast = element => {
    const [a, b] = [light(getComputedStyle(element).color), light(ground(element))];
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  };
  const texts = [...document.querySelectorAll("%s")].filter(e => e.offsetParent && e.innerText?.trim());
  return texts.length ? Math.min(...texts.map(contrast)) : null;
})()"""
