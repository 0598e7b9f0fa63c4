"""The pages in a real Chromium: two widths, print, hostile titles, no request to any host."""

import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dynamicpo.core.choices import VARIANTS
from dynamicpo.core.config import DriftConfig, GridConfig, StudyConfig
from dynamicpo.monitoring.drift import monitor_drift
from dynamicpo.reports.charts.curves import curves, scaling
from dynamicpo.reports.pages.evaluation import (
    EvaluationReport,
    comparison_page,
    evaluation_page,
)
from dynamicpo.reports.pages.quality import quality_page
from dynamicpo.reports.pages.study import study_page
from dynamicpo.reports.pages.training import training_page
from dynamicpo.study.grid import plan_cells
from dynamicpo.study.kinds import kind_at
from dynamicpo.study.report import make_report
from dynamicpo.study.verdict import judge_all
from tests.fixtures.cells import study_cells, users
from tests.fixtures.folders import NUM_ITEMS, write_preferences
from tests.fixtures.quality import quality_report

pytestmark = pytest.mark.browser
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
WIDTHS = (400, 1400)
HOSTILE = (
    "<script>document.title='owned'</script>"
    "<img src=https://example.invalid/x onerror=\"document.title='owned'\">"
)
CUT_OFF = """
[...document.querySelectorAll('svg')].flatMap(svg => {
  const frame = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(text => {
    const box = text.getBoundingClientRect();
    return box.left < frame.left - 1 || box.right > frame.right + 1
      || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
  }).map(text => svg.getAttribute('aria-label') + ': ' + text.textContent);
})
"""
OVERLAPPING = """
[...document.querySelectorAll('svg')].flatMap(svg => {
  const texts = [...svg.querySelectorAll('text')];
  const boxes = texts.map(text => [text.textContent, text.getBoundingClientRect()]);
  return boxes.flatMap(([one, a], i) => boxes.slice(i + 1).filter(([, b]) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
      && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3
  ).map(([other]) => svg.getAttribute('aria-label') + ': ' + one + ' / ' + other));
})
"""


CLIPPED = """
[...document.querySelectorAll('body *')].filter(part =>
  getComputedStyle(part).overflowX == 'hidden'
    && part.clientWidth > 0 && part.scrollWidth > part.clientWidth + 1
).map(part =>
  part.tagName + ' ' + part.getAttribute('class') + ': ' + part.textContent.slice(0, 60)
)
"""
PALE = """
(() => {
  const level = c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) =>
    0.2126 * level(r / 255) + 0.7152 * level(g / 255) + 0.0722 * level(b / 255);
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const colour = parts(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const texts = [...document.querySelectorAll('body *')].filter(node =>
    [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim())
      && node.checkVisibility());
  const pale = texts.filter(node => {
    const style = getComputedStyle(node), chart = node.closest('svg');
    const ink = light(parts(chart ? style.fill : style.color));
    const paper = light(behind(chart || node));
    const [one, other] = [ink, paper].sort((a, b) => b - a);
    return (one + 0.05) / (other + 0.05) < 4.5;
  });
  return [...new Set(pale.map(node => node.tagName + ': ' + node.textContent.trim().slice(0, 40)))];
})()
"""


class Browser:
    """One tab of a headless Chromium, driven through its DevTools protocol."""

    def __init__(self, folder: Path) -> None:
        websocket = pytest.importorskip(
            "websocket", reason="websocket-client (it comes with kfp) is not installed"
        )
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--hide-scrollbars",
        ]
        options += [
            "--remote-debugging-port=0",
            "--remote-allow-origins=*",
            f"--user-data-dir={folder}",
            "about:blank",
        ]
        self.process = subprocess.Popen(
            [str(CHROMIUM), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        port_file, limit = folder / "DevToolsActivePort", time.monotonic() + 60
        while not (port_file.is_file() and port_file.read_text().count("\n")):
            if time.monotonic() > limit or self.process.poll() is not None:
                self.process.kill()
                pytest.fail("Chromium is installed but did not start within 60 s")
            time.sleep(0.05)
        port, address = port_file.read_text().split()
        self.socket = websocket.create_connection(f"ws://127.0.0.1:{port}{address}", timeout=60)
        self.numbers, self.session, self.events = itertools.count(1), "", []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self.numbers)
        session = {"sessionId": self.session} if self.session else {}
        self.socket.send(
            json.dumps({"id": number, "method": method, "params": parameters, **session})
        )
        while (message := json.loads(self.socket.recv())).get("id") != number:
            self.events.append(message)
        assert "error" not in message, message
        return message["result"]

    def open(self, path: Path, width: int) -> list[str]:
        """Show a page. Returns the addresses it asked for, its own aside."""
        self.events.clear()
        self(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(json.loads(self.socket.recv()))
        requests = [
            e["params"]["request"]["url"]
            for e in self.events
            if e.get("method") == "Network.requestWillBeSent"
        ]
        return [address for address in requests if address != path.as_uri()]

    def run(self, expression: str) -> Any:
        return self("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get(
            "value"
        )

    def screenshot(self, target: Path) -> None:
        image = self("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        target.write_bytes(base64.b64decode(image))

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(timeout=20)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    tab = Browser(tmp_path_factory.mktemp("profile"))
    yield tab
    tab.close()


def log(steps: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    keys = [
        "loss",
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "rewards/accuracies",
        "boundary_fraction",
    ]
    keys += ["violation_share", "boundary_beta", "boundary_gradient", "learning_rate", "grad_norm"]
    scales = dict.fromkeys(keys, 1.0) | {
        "learning_rate": 1e-5,
        "grad_norm": 12345.6,
        "rewards/rejected": -123.0,
    }
    return [
        {"step": s + 1, **{k: v * rng.uniform() for k, v in scales.items()}} for s in range(steps)
    ]


def comparison(names: list[str]) -> str:
    """The fullest page there is."""
    measures = [f"test_{kind}_at_{k}" for k in (1, 3, 5, 10) for kind in ("hit_ratio", "ndcg")]
    bounds = {"": 0.0, "_low": -0.012, "_high": 0.012}
    metrics = {
        name: {
            f"{m}{end}": 0.1 + 0.1 * index + shift
            for m in measures
            for end, shift in bounds.items()
        }
        for index, name in enumerate(names)
    }
    pairs = [(names[0], other) for other in names[1:]]
    numbers = {
        "difference": -0.05,
        "low": -0.062,
        "high": -0.038,
        "p": 1e-5,
        "p_holm": 0.04,
        "won": 100,
        "lost": 2310,
    }
    example = {
        "history": [HOSTILE] * 5,
        "target": "x" * 300,
        "rank_a": 1,
        "rank_b": 7.5,
        "top_a": HOSTILE,
        "top_b": "y",
    }
    return comparison_page(
        EvaluationReport(
            title=HOSTILE,
            metrics=metrics,
            ranks={name: [9 - index, *[1] * 19] for index, name in enumerate(names)},
            comparisons=[
                {"a": a, "b": b, "metric": m, **numbers} for a, b in pairs for m in measures[:2]
            ],
            training={name: log(90, index) for index, name in enumerate(names)},
            examples=[
                {"a": a, "b": b, "outcome": o, **example}
                for a, b in pairs[:2]
                for o in ("won", "lost")
            ],
            differences={"beta": dict(zip(names, range(len(names)), strict=True))},
            runs={
                "image": dict.fromkeys(
                    names[:2], "registry/dynamicpo@sha256:" + "0123456789abcdef" * 4
                )
            },
            details={"protocol": {"split": "test"}, "fingerprint": "f" * 300},
            warnings=["w" * 300],
        )
    )


def study(config: GridConfig) -> str:
    """The page of a study with all of a grid's cells; a hostile text among its facts."""
    kinds = {
        kind_at(cell["loss"], cell["dynamic"], cell["num_negatives"]): cell
        for cell in plan_cells(config)
    }
    shares = {
        kind: (0.3 + 0.01 * (index % 9), 0.1 + 0.01 * index) for index, kind in enumerate(kinds)
    }
    judged = judge_all(study_cells(shares, noise=0.01), users(), range(3), StudyConfig())
    return study_page(
        make_report(judged, {"popularity": 0.25}, {"protocol": {"split": HOSTILE}, "seeds": [0]})
    )


def drift() -> str:
    """Evidently's page, over titles and categories that are scripts."""
    with tempfile.TemporaryDirectory() as folder:
        names = [str(item) for item in range(NUM_ITEMS)]
        items = pd.DataFrame(
            {
                "item_id": names,
                "title": HOSTILE,
                "popularity": range(NUM_ITEMS),
                "category": HOSTILE,
            }
        )
        items["title"] += items["item_id"]
        items["category"] += (items["popularity"] % 3).astype(str)
        preferences = write_preferences(Path(folder) / "preferences", items=items)
        monitor_drift(preferences, preferences, Path(folder) / "drift", DriftConfig())
        return (Path(folder) / "drift" / "report.html").read_text(encoding="utf-8")


LONG = [
    f"{name} with a rather long description of what was done, number {name}" for name in "abcdef"
]
CASES: dict[str, Callable[[], str]] = {
    "comparison": lambda: comparison(["sft", "dmpo", HOSTILE, "dynamicpo-dmpo"]),
    "long names": lambda: comparison(LONG),
    "wide names": lambda: comparison(["W" * 40, "映画" * 30]),
    "training": lambda: training_page(log(300, 0), "Preference training", {"seed": 0}),
    "one step": lambda: training_page(log(1, 0), "Preference training", {}),
    "evaluation": lambda: evaluation_page({"a": {"mrr": 0.5}}, {"a": [*range(1682)]}, [], {}),
    "nothing": lambda: comparison_page(EvaluationReport(metrics={})),
    "quality": lambda: quality_page(quality_report(HOSTILE)),
    "quality of years": lambda: quality_page(quality_report("x" * 300, days=9000)),
    "quality of hours": lambda: quality_page(quality_report("映画" * 30, days=0.3)),
    "study": lambda: study(GridConfig()),
    "whole study": lambda: study(WHOLE),
    "study of one K": lambda: study(GridConfig(num_negatives="5", objectives="dmpo")),
}
WHOLE = GridConfig(
    num_negatives="1,3,5,10,15,19", objectives="dmpo,sdpo,mppo", variants=",".join(VARIANTS)
)


@cache
def html(name: str) -> str:
    return CASES[name]()


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "page.html"
    path.write_text(html(request.param), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_fits_its_window_and_asks_no_host(browser: Browser, case: Path, width: int) -> None:
    assert browser.open(case, width) == []
    browser.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert browser.run("innerWidth") == width
    assert browser.run("document.documentElement.scrollWidth") == width
    assert browser.run(CUT_OFF) == []
    assert browser.run(OVERLAPPING) == []
    browser.screenshot(case.with_suffix(".png"))
    with Image.open(case.with_suffix(".png")) as image:
        assert image.width == width
        assert np.asarray(image.convert("L")).std() > 3  # not a blank page


@pytest.mark.parametrize("name", ["comparison", "quality", "whole study"])
def test_scripts_in_titles_stay_text(browser: Browser, tmp_path: Path, name: str) -> None:
    path = tmp_path / "page.html"
    path.write_text(html(name), encoding="utf-8")
    assert browser.open(path, 1400) == []
    titles = {"comparison": HOSTILE, "quality": "Data quality", "whole study": "Collapse study"}
    assert browser.run("document.title") == titles[name]
    assert browser.run("document.querySelectorAll('script, img').length") == 0
    assert HOSTILE in browser.run("document.body.textContent")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_drift_page_fits_and_its_titles_stay_text(
    browser: Browser, tmp_path: Path, width: int
) -> None:
    """Its charts are drawn by scripts of its own; those of the titles must not run."""
    path = tmp_path / "page.html"
    path.write_text(cached_drift(), encoding="utf-8")
    assert browser.open(path, width) == []
    wait = "new Promise(done => setTimeout(done, 3000))"
    browser("Runtime.evaluate", expression=wait, awaitPromise=True)
    assert [
        event for event in browser.events if event.get("method") == "Network.requestWillBeSent"
    ][1:] == []
    assert browser.run("document.title") != "owned"
    assert browser.run("document.querySelectorAll('img[src*=\"example.invalid\"]').length") == 0
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(CLIPPED) == []
    assert "columns have drifted" in browser.run("document.querySelector('h1').textContent")


def test_a_wide_table_scrolls_in_its_own_box(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(html("long names"), encoding="utf-8")
    browser.open(path, 400)
    box = "document.querySelector('.scroll')"
    assert browser.run(f"{box}.scrollWidth > {box}.clientWidth")


def test_print_shows_the_facts_and_cuts_nothing(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(html("training"), encoding="utf-8")
    browser.open(path, 800)
    visible = "document.querySelector('dl').checkVisibility()"
    assert browser.run(visible) is False
    browser("Emulation.setEmulatedMedia", media="print")
    assert browser.run(visible) is True
    assert browser.run("document.documentElement.scrollWidth") == 800
    browser("Emulation.setEmulatedMedia", media="")


LINES: dict[str, Callable[[], str]] = {
    "curves": lambda: curves(
        {name: ([0, 100], [index, index]) for index, name in enumerate("abcdef")}, "t"
    ),
    "scaling": lambda: scaling(
        {
            name: [(k, index, index, index) for k in (1, 3, 5, 10, 15, 19)]
            for index, name in enumerate(VARIANTS)
        },
        "t",
    ),
}


@pytest.mark.parametrize("vision", ["achromatopsia", "deuteranopia", "protanopia", "tritanopia"])
@pytest.mark.parametrize("kind", LINES)
def test_lines_are_told_apart_without_colour(
    browser: Browser, tmp_path: Path, kind: str, vision: str
) -> None:
    """Level lines as a reader without some or all colours sees them: dark, and no two alike."""
    path, image = tmp_path / "page.html", tmp_path / "page.png"
    path.write_text(f"<body style='margin:0'>{LINES[kind]()}</body>", encoding="utf-8")
    browser.open(path, 800)
    browser("Emulation.setEmulatedVisionDeficiency", type=vision)
    browser.screenshot(image)
    browser("Emulation.setEmulatedVisionDeficiency", type="none")
    with Image.open(image) as picture:
        dark = np.asarray(picture.convert("L"))[:420, 100:740] < 200
    rows = [row for row in range(len(dark)) if dark[row].mean() > 0.3]
    centres = [
        group[len(group) // 2] for group in np.split(rows, np.where(np.diff(rows) > 8)[0] + 1)
    ]
    lines = 6 if kind == "curves" else 4
    centres = centres[:lines]
    patterns = {
        (int(np.diff(dark[row].astype(int)).clip(0).sum()), round(dark[row].mean(), 1))
        for row in centres[:lines]
    }
    assert len(patterns) == lines


@pytest.mark.parametrize("name", ["comparison", "quality", "whole study"])
def test_text_is_dark_enough_to_read(browser: Browser, tmp_path: Path, name: str) -> None:
    """Every text stands out from its background by 4.5 to 1 (WCAG AA), in charts too."""
    path = tmp_path / "page.html"
    path.write_text(html(name), encoding="utf-8")
    browser.open(path, 1400)
    assert browser.run(PALE) == []
    browser.run("document.querySelector('h1').style.color = '#999'")
    assert [text[:3] for text in browser.run(PALE)] == ["H1:"]


@cache
def cached_drift() -> str:
    return drift()
