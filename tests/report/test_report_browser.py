"""The report works in a real browser: offline, at any width and in both themes."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from report_page import segmentation_content, write
from torch import nn

import transpike as tp
from transpike.report import Samples, read_results, record_samples, write_report
from transpike.report.png import png

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if BROWSER is None or DRIVER is None:
    pytest.skip(
        "needs chromium and chromedriver: apt-get install chromium chromium-driver",
        allow_module_level=True,
    )

selenium = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

T = 4
SWITCHES = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-color-profile=srgb",
]
SECONDS = 60
TO_CHART = """
  document.getElementById("chart-accuracy").scrollIntoView({behavior: "instant", block: "center"});
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Write a report that has every section, and return its address."""
    root = tmp_path_factory.mktemp("page")
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(1, 1, 5, padding=2), nn.ReLU(), nn.Conv2d(1, 1, 1))
    state = {"0.weight": torch.full((1, 1, 5, 5), 1 / 25), "0.bias": torch.zeros(1)}
    state |= {"2.weight": torch.ones(1, 1, 1, 1), "2.bias": torch.tensor([-0.5])}
    # A pixel is in the mask if the mean of the 5 x 5 pixels around it is above one half.
    model.load_state_dict(state)
    x = torch.rand(2, 1, 24, 32)
    target = (nn.functional.avg_pool2d(x, 7, 1, 3) > 0.47).float()
    snn = tp.convert(model, [x])
    record_samples(snn, x, target, T, mean=[0.0], std=[1.0]).save(root / "masks")
    results = {
        "evaluate": tp.evaluate(snn, [(x, target)], T),
        "twin": tp.evaluate(snn, [(x, target)], 2 * T),
        "diagnose": tp.diagnose(snn, [x], T),
        "cost": tp.measure_cost(snn, [x], T),
    }
    for name, result in results.items():
        content = {**result.to_dict(), "model": f"a model with a rather long name, {name}"}
        (root / f"{name}.json").write_text(json.dumps(content, default=str))
    _labeled().save(root / "labels")
    (root / "slices").mkdir()
    write(root / "slices" / "segment.json", segmentation_content())
    (root / "slices" / "overview.png").write_bytes(png(np.zeros((90, 1800), np.uint8)))
    found = read_results([root, root / "masks", root / "labels", root / "slices"])
    return write_report(found, root / "report.html").as_uri()


def _labeled():
    generator = np.random.default_rng(0)
    label = generator.integers(0, 10, 50).astype(np.uint8)
    wrong = np.where(np.arange(50) < 6, (label + 1) % 10, label).astype(np.uint8)
    image = generator.integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)
    names = tuple(f"class {k}" for k in range(10))
    return Samples((1, 2), label, label, np.stack([wrong, label]), image, np.arange(6), names)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = selenium.ChromeOptions()
    options.binary_location = BROWSER
    for switch in SWITCHES:
        options.add_argument(switch)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, page):
    """Load the page in a wide window with the light theme."""
    _sized(browser, 1280, 900)
    _themed(browser, "light")
    browser.get_log("performance"), browser.get_log("browser")
    browser.get(page)
    _until(browser, lambda: browser.execute_script("return document.documentElement.dataset.ready"))
    return browser


def _sized(browser, width, height):
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def _themed(browser, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def _until(browser, true):
    WebDriverWait(browser, SECONDS).until(lambda _: true())


def _pixels(browser, name):
    return browser.execute_script(f"return document.getElementById('{name}').toDataURL()")


def _one(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def test_no_error_and_no_request(opened):
    assert [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"] == []
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    addresses = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert any(address.startswith("file:") for address in addresses)  # This is the page itself.
    assert [a[:80] for a in addresses if not a.startswith(("file:", "data:"))] == []
    loaded = opened.execute_script(
        "return performance.getEntriesByType('resource').map(e => e.name)"
    )
    assert [name[:80] for name in loaded if not name.startswith("data:")] == []


def test_the_slider_moves_the_picture_and_says_so(opened):
    prediction, caption = _pixels(opened, "masks-0-prediction"), "#masks-0-caption"
    assert f"T = {T}: F1" in _one(opened, caption).text
    slider = _one(opened, "#masks-0-step")
    slider.send_keys(Keys.HOME)
    shown = lambda: _one(opened, "#masks-0").get_attribute("data-shown")  # noqa: E731
    _until(opened, lambda: shown() == "0/1/true")
    assert _pixels(opened, "masks-0-prediction") != prediction
    assert "T = 1: F1" in _one(opened, caption).text
    assert slider.get_attribute("aria-valuetext") == "T = 1"
    slider.send_keys(Keys.ARROW_RIGHT)
    _until(opened, lambda: shown() == "0/2/true")
    slider.send_keys(Keys.END)
    _until(opened, lambda: shown() == f"0/{T}/true")
    assert _pixels(opened, "masks-0-prediction") == prediction


def test_picking_another_image_and_the_raw_one(opened):
    errors, shown = _pixels(opened, "masks-0-errors"), _one(opened, "#masks-0")
    _one(opened, "#masks-0-image").send_keys(Keys.ARROW_DOWN)
    _until(opened, lambda: shown.get_attribute("data-shown").startswith("1/"))
    other = _pixels(opened, "masks-0-errors")
    assert other != errors
    _one(opened, "#masks-0-overlay").send_keys(Keys.SPACE)
    _until(opened, lambda: shown.get_attribute("data-shown").endswith("false"))
    raw = _pixels(opened, "masks-0-errors")
    assert raw != other and raw == _pixels(opened, "masks-0-analog")


def test_overlay_colors_are_those_of_the_legend(opened):
    """Every pixel of the error panel is gray, or a mix of 0.4 gray and 0.6 of a legend color."""
    script = """
      const canvas = document.getElementById("masks-0-errors");
      const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      const style = getComputedStyle(document.documentElement);
      return [Array.from(data), ["tp", "fp", "fn"].map((n) => style.getPropertyValue("--" + n))];
    """
    flat, names = opened.execute_script(script)
    colors = [[int(name.strip()[k : k + 2], 16) for k in (1, 3, 5)] for name in names]
    pixels = np.array(flat).reshape(-1, 4)[:, :3]
    script = "return JSON.parse(document.getElementById('report-data').textContent).masks[0]"
    scores = opened.execute_script(script)["images"][0]["scores"]["snn"][-1]
    gray = (pixels == pixels[:, :1]).all(axis=1)
    assert (~gray).sum() == scores["tp"] + scores["fp"] + scores["fn"]
    for color, name in zip(colors, ("tp", "fp", "fn"), strict=True):
        left = (pixels - 0.6 * np.array(color)) / 0.4
        fits = ~gray & (np.ptp(left, axis=1) < 4)
        assert fits.sum() == scores[name], name


def test_hover_shows_the_values(opened):
    opened.execute_script(TO_CHART)
    area = _one(opened, "#chart-accuracy .nsewdrag")
    ActionChains(opened).move_to_element(area).move_by_offset(7, 0).perform()
    _until(
        opened, lambda: opened.find_elements(By.CSS_SELECTOR, "#chart-accuracy .hoverlayer text")
    )
    text = _one(opened, "#chart-accuracy .hoverlayer").get_attribute("textContent")
    assert "%" in text and "ANN" in text


def test_the_legend_hides_a_curve_also_after_a_change_of_theme(opened):
    entry = _one(opened, "#chart-accuracy .legend .traces .legendtoggle")
    opened.execute_script(TO_CHART)
    script = """
      const all = document.getElementById("chart-accuracy").data;
      const seen = all.filter((t) => t.showlegend !== false);
      return seen.map((t) => t.visible ?? true);
    """
    assert opened.execute_script(script)[0] is True
    ActionChains(opened).move_to_element(entry).click().perform()
    _until(opened, lambda: opened.execute_script(script)[0] == "legendonly")
    _themed(opened, "dark")
    time.sleep(0.3)
    assert opened.execute_script(script)[0] == "legendonly"


def test_confusion_and_flips_follow_their_slider(opened):
    slider, table = _one(opened, "#labeled-1-step"), _one(opened, "#labeled-1-snn")
    assert "differ on 0 of 50" in _one(opened, "#labeled-1-caption").text
    diagonal = table.text
    slider.send_keys(Keys.ARROW_LEFT)
    _until(opened, lambda: "differ on 6 of 50" in _one(opened, "#labeled-1-caption").text)
    assert table.text != diagonal
    cards = opened.find_elements(By.CSS_SELECTOR, "#labeled-1-gallery li")
    assert len(cards) == 6 and "SNN" in cards[0].text
    width = "return document.querySelector('#labeled-1-gallery img').naturalWidth"
    _until(opened, lambda: opened.execute_script(width) == 8)
    cells = "[...document.querySelectorAll('#labeled-1-snn tbody td')]"
    counts = f"return {cells}.map((cell) => +cell.textContent)"
    assert sum(opened.execute_script(counts)) == 50


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_the_page_never_scrolls_sideways(opened, width):
    _sized(opened, width, 844)
    opened.execute_script("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    time.sleep(0.5)
    script = "const d = document.documentElement; return [d.scrollWidth, d.clientWidth]"
    whole, seen = opened.execute_script(script)
    assert whole <= seen <= width


def test_dark_and_light(opened):
    script = """
      const box = document.getElementById('chart-accuracy');
      return [getComputedStyle(document.body).backgroundColor,
              box.querySelector('.xtick text').style.fill, box.data[1].line.color];
    """
    light = opened.execute_script(script)
    _themed(opened, "dark")
    _until(opened, lambda: opened.execute_script(script)[1] != light[1])
    dark = opened.execute_script(script)
    assert light[0] == "rgb(255, 255, 255)"
    assert all(before != after for before, after in zip(light, dark, strict=True))
    assert "@" not in "".join(dark)


def test_focus_is_visible(opened):
    slider = _one(opened, "#masks-0-step")
    before = slider.value_of_css_property("outline-style")
    opened.execute_script("document.getElementById('masks-0-overlay').focus()")
    ActionChains(opened).key_down(Keys.SHIFT).send_keys(Keys.TAB, Keys.TAB).key_up(
        Keys.SHIFT
    ).perform()
    assert opened.switch_to.active_element == slider
    assert (before, slider.value_of_css_property("outline-style")) == ("none", "solid")


def test_print_opens_every_table_and_puts_it_back(opened):
    script = "return [...document.querySelectorAll('details')].map((d) => d.open)"
    before = opened.execute_script(script)
    opened.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert not all(before) and all(opened.execute_script(script))
    widths = "return [...document.querySelectorAll('.chart .main-svg')].map((s) => s.clientWidth)"
    assert max(opened.execute_script(widths)) <= 680
    opened.execute_script("dispatchEvent(new Event('afterprint'))")
    assert opened.execute_script(script) == before


def test_downloads_are_the_files(opened, page):
    script = """
      return Promise.all([...document.querySelectorAll('a[download]')].map((link) => [
        link.download, atob(link.href.split(',')[1])]));
    """
    links = dict(opened.execute_script(script))
    folder = Path(page.removeprefix("file://")).parent
    file = folder / "evaluate.json"
    assert json.loads(links["evaluate.json"]) == json.loads(file.read_text())
    assert len(links) == 6
