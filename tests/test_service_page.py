"""The service's page in headless Chromium: search, languages, token matches, errors, the key, narrow and dark."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from service_world import make

for library in ("fastapi", "uvicorn", "selenium"):
    pytest.importorskip(library, reason=f"{library} is not installed: pip install 'colbertxm[serve,dev-serve]'")

# ruff: noqa: E402
import uvicorn
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from colbertxm.model.checkpoints import load_model
from colbertxm.records import Text
from colbertxm.service.app import create_app
from colbertxm.service.limits import Limits
from colbertxm.service.run import Address
from colbertxm.service.served import Change, Served

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="no Chromium with chromedriver is installed"),
]
KEY = "a-key-of-thirty-two-characters-xx"
EVIL = "<img src=x onerror=\"document.title='stolen'\"> lamp & <b>door</b>"
CONTRAST = """
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const linear = (c) => c / 255 <= .04045 ? c / 255 / 12.92 : ((c / 255 + .055) / 1.055) ** 2.4;
const light = (colour) => colour.slice(0, 3).map(linear)
  .reduce((sum, c, n) => sum + c * [.2126, .7152, .0722][n], 0);
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = parse(getComputedStyle(at).backgroundColor);
    if (colour.length < 4 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
return [...document.querySelectorAll(arguments[0])].map((element) => {
  const [one, other] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
  return (one + .05) / (other + .05);
});
"""


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory, wheels: dict[str, Path]) -> Iterator[tuple[str, str]]:
    """Of a service with two indexes, and of one that asks for a key."""
    made = make(tmp_path_factory.mktemp("page"), wheels)
    encoder = load_model(made.model)
    main, other = Served("plain vectors", encoder, made.exact), Served("four bits", encoder, made.compressed)
    main.change([Change(add=(Text("evil", EVIL, "en"), Text("he:1", "מכבה אור אחד או יותר בבית.", "he")))])
    main.warm()
    running, found = [], []
    for app in (create_app(main, other, Limits(), None), create_app(main, None, Limits(), KEY)):
        bound = Address(port=0).bind()
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        running.append((server, thread))
        found.append(f"http://127.0.0.1:{bound.getsockname()[1]}/")
    yield found[0], found[1]
    for server, thread in running:
        server.should_exit = True
        thread.join(60)


class Browser:
    """Chromium with a page in it."""

    def __init__(self, width: int = 1280) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        # Without a sandbox, because tests may run as root in a container; it sees our own page alone.
        for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def one(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def wait(self, ready: Callable[[], Any]) -> Any:
        return WebDriverWait(self.driver, 60).until(lambda _: ready())

    def open(self, url: str, **asked: str) -> None:
        """The page, and where something is asked its answer."""
        self.driver.get(url + ("?" + urlencode(asked) if asked else ""))
        if asked:
            self.wait(lambda: self.all(".hit") or self.one("#error").text)
        else:
            self.wait(lambda: self.one("#about").text or self.one("#error").text)

    def settled(self) -> None:
        """Until the running search is answered."""
        self.wait(lambda: self.one("#results").get_attribute("aria-busy") == "false")

    def each(self, selector: str, value: str) -> list[str]:
        """A JavaScript expression of each element `e`, all at once: the page may be drawn anew at any moment."""
        found = self.driver.execute_script(
            f"return [...document.querySelectorAll(arguments[0])].map((e) => String({value}))", selector
        )
        return list(found)

    def focus(self) -> Any:
        return self.driver.switch_to.active_element

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def complaints(self) -> list[str]:
        """What the browser logs: refused by the policy, failed, thrown."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture
def browser() -> Iterator[Browser]:
    found = Browser()
    yield found
    found.driver.quit()


def test_search_with_the_keyboard_alone(browser: Browser, urls: tuple[str, str]) -> None:
    browser.open(urls[0])
    assert browser.one("#about").text == "92 passages in 4 languages"
    assert browser.focus().get_attribute("id") == "query"
    Select(browser.one("#lang")).select_by_value("en")
    browser.one("#query").send_keys("lamp door", Keys.ENTER)
    browser.wait(lambda: len(browser.all(".hit")) == 10)
    status = browser.one("#status")
    assert "10 passages" in status.text and "read as English" in status.text
    assert (status.get_attribute("role"), status.get_attribute("aria-live")) == ("status", "polite")
    assert "q=lamp+door" in browser.driver.current_url and browser.driver.title.startswith("lamp door")
    for control in browser.all("input:not([type=hidden]), select"):
        assert browser.driver.execute_script("return arguments[0].labels.length", control) == 1
    reached = []
    browser.one("#query").click()
    for _ in range(6):
        browser.press(Keys.TAB)
        outline = browser.driver.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
        reached.append((browser.focus().get_attribute("id") or browser.focus().get_attribute("class"), outline))
    # Chromium's own clearing cross is no stop.
    names = [name for name, _ in reached]
    assert names[-5:] == ["lang", "passage-lang", "model", "link", "link"] and {o for _, o in reached} == {"solid"}
    browser.driver.back()
    browser.wait(lambda: not browser.all(".hit"))
    assert browser.complaints() == []


def test_switch_the_language_of_results(browser: Browser, urls: tuple[str, str]) -> None:
    browser.open(urls[0], q="lamp", lang="en")
    for code, direction in (("ar", "rtl"), ("he", "rtl"), ("de", "ltr")):
        Select(browser.one("#passage-lang")).select_by_value(code)
        browser.wait(lambda code=code: set(browser.each(".passage", "e.lang")) == {code})
        assert set(browser.each(".passage", "e.dir")) == {direction}
    assert "in=de" in browser.driver.current_url
    browser.driver.refresh()
    browser.wait(lambda: browser.all(".hit"))
    assert Select(browser.one("#passage-lang")).first_selected_option.text == "German – Deutsch"
    assert set(browser.each(".passage", "e.lang")) == {"de"}
    assert browser.complaints() == []


@pytest.mark.parametrize("lang", ["en", "ar"])
def test_open_the_match_view(browser: Browser, urls: tuple[str, str], lang: str) -> None:
    asked = {"en": "lamp door", "ar": "مصباح باب"}[lang]
    browser.open(urls[0], q=asked, lang=lang, **{"in": lang})
    toggle, passage = browser.one(".hit .link"), browser.one(".hit .passage").text
    toggle.send_keys(Keys.SPACE)
    browser.wait(lambda: browser.all(".read"))
    assert toggle.get_attribute("aria-expanded") == "true"
    read = browser.one(".read")
    written = browser.driver.execute_script(
        "return [...arguments[0].childNodes].filter((n) => !n.classList?.contains('sign'))"
        ".map((n) => n.textContent).join('')",
        read,
    )
    assert " ".join(written.split()) == passage
    assert read.get_attribute("dir") == ("rtl" if lang == "ar" else "ltr")
    tokens, lines = browser.all(".token"), browser.all(".matches tbody tr")
    assert len(tokens) == len(lines) > 2
    browser.one("summary").send_keys(Keys.ENTER)
    browser.wait(lambda: browser.one(".matches table").is_displayed())
    cosines = list(map(float, browser.each(".matches td:nth-child(3)", "e.textContent")))
    score = float(browser.each(".facts span:nth-child(2)", "e.textContent")[0].split()[1])
    assert sum(cosines) == pytest.approx(score, abs=0.02)
    shares = shares_of(browser)
    assert max(shares) == 1
    tokens[1].send_keys(Keys.ENTER)
    assert [t.get_attribute("aria-pressed") for t in tokens[:3]] == ["false", "true", "false"]
    assert len(browser.all(".read .best")) == 1 and shares_of(browser) != shares
    tokens[1].send_keys(Keys.ENTER)
    assert shares_of(browser) == shares and not browser.all(".read .best")
    toggle.send_keys(Keys.ENTER)
    assert not read.is_displayed() and toggle.get_attribute("aria-expanded") == "false"
    assert browser.complaints() == []


def shares_of(browser: Browser) -> list[float]:
    return list(map(float, browser.each(".read .shaded", "e.style.getPropertyValue('--share')")))


def test_an_error_is_said_and_mended(browser: Browser, urls: tuple[str, str]) -> None:
    browser.open(urls[0], q="lamp", lang="en")
    Select(browser.one("#passage-lang")).select_by_value("same")
    browser.settled()
    Select(browser.one("#model")).select_by_value("compare")
    browser.settled()
    Select(browser.one("#lang")).select_by_value("he")  # the second index has nothing in Hebrew
    browser.wait(lambda: browser.one("#error").text)
    assert browser.one("#error").text == "no passage in 'he' is indexed; the index has ar, de, en"
    assert browser.one("#error").get_attribute("role") == "alert" and not browser.all(".hit")
    Select(browser.one("#lang")).select_by_value("de")
    browser.wait(lambda: browser.all(".hit"))
    assert browser.one("#error").text == ""


def test_two_side_by_side(browser: Browser, urls: tuple[str, str]) -> None:
    browser.open(urls[0], q="lamp", lang="en", model="both")
    columns = browser.all(".column")
    assert [c.find_element(By.TAG_NAME, "h2").text for c in columns] == [
        "plain vectors exhaustive", "four bits compressed"]  # fmt: skip
    left, right = (column.rect for column in columns)
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    assert [len(c.find_elements(By.CSS_SELECTOR, ".hit")) for c in columns] == [10, 10]


def test_texts_are_texts(browser: Browser, urls: tuple[str, str]) -> None:
    browser.open(urls[0], q=EVIL, lang="en", **{"in": "en"})
    hit = next(hit for hit in browser.all(".hit") if "evil" in hit.text)
    assert hit.find_element(By.CSS_SELECTOR, ".passage").text == EVIL
    hit.find_element(By.CSS_SELECTOR, ".link").click()
    browser.wait(lambda: browser.all(".read"))
    assert not browser.all("main img, main b b, .passage b") and browser.driver.title != "stolen"
    assert browser.complaints() == []


def test_the_key_is_asked_for_once(browser: Browser, urls: tuple[str, str]) -> None:
    browser.open(urls[1])
    browser.wait(lambda: browser.one("#key").is_displayed())
    browser.one("#key").send_keys("wrong", Keys.ENTER)
    browser.wait(lambda: "API key" in browser.one("#error").text)
    browser.one("#key").send_keys(KEY, Keys.ENTER)
    browser.wait(lambda: browser.one("#about").text)
    assert not browser.one("#key").is_displayed() and browser.one("#error").text == ""
    browser.open(urls[1], q="lamp", lang="en")
    assert len(browser.all(".hit")) == 10 and KEY not in browser.driver.current_url


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_and_readable(urls: tuple[str, str], scheme: str) -> None:
    browser = Browser(375)
    try:
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.open(urls[0], q="lamp " * 40, lang="en", model="both")
        for toggle in browser.all(".hit .link")[:2]:
            toggle.send_keys(Keys.ENTER)
        browser.wait(lambda: len(browser.all(".read")) == 2)
        browser.all("summary")[0].send_keys(Keys.ENTER)
        assert browser.driver.execute_script("return document.documentElement.scrollWidth") == 375
        small = [e.size for e in browser.all("button, select, input") if e.is_displayed() and e.size["height"] < 44]
        assert small == []
        for selector in (".passage", ".facts span", "#status", "#about", ".token b", ".token span", ".quiet", ".link",
                         ".primary", "label", "summary", "td", "caption", "#error"):  # fmt: skip
            assert min(browser.driver.execute_script(CONTRAST, selector)) >= 4.5, selector
        paper = browser.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, paper[4:-1].split(","))) > 380) == (scheme == "light")
    finally:
        browser.driver.quit()
