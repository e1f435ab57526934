"""The page in a real browser: Debian's Chromium, where it is installed."""

import sys

import pytest
from browser import CHROMIUM, Browser

from kfdeploy.report import tables
from kfdeploy.report.page import write_report


@pytest.fixture
def browser(tmp_path):
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None or sys.platform == "win32", reason="needs Chromium")
def test_a_browser_shows_it_and_answers_hand_and_keyboard(browser, rich, inspection, tmp_path):
    out = tmp_path / "report.html"
    write_report(rich, out, inspection=inspection)
    for width, dark in ((1200, False), (400, False), (400, True)):
        browser.open(out, width, dark=dark)
        assert browser.complaints() == []
        assert browser.requests() == [out.as_uri()]
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run("document.querySelectorAll('section').length") == 10
        assert browser.run("document.querySelectorAll('.plane .point .mark').length") == 5 + 8
    colours = browser.run("getComputedStyle(document.body).backgroundColor")
    browser.open(out)
    assert browser.run("getComputedStyle(document.body).backgroundColor") != colours
    mark = "document.querySelector('.plane .point .mark')"
    browser.run(f"{mark}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    x, y = browser.run(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({mark}.getBoundingClientRect())")
    assert browser.run("document.getElementById('tip').hidden")
    browser.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
    browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    tip = browser.run("document.getElementById('tip').innerText")
    assert "p50 0.500" in tip
    assert "accuracy 80.00 %" in tip
    browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=2, y=2)
    assert browser.run("document.getElementById('tip').hidden")
    browser.run("document.querySelectorAll('.plane .point')[3].focus()")
    assert "teacher" in browser.run("document.getElementById('tip').innerText")
    assert browser.run("document.querySelectorAll('.plane .point')[3].getAttribute('aria-label')").startswith(
        "teacher;"
    )
    browser.run("document.querySelectorAll('.show input')[2].click()")
    assert browser.run("document.querySelectorAll('.plane .point.off').length") == 4
    assert browser.run("[...document.querySelectorAll('.front')].map(f => f.hasAttribute('hidden'))") == [
        True,
        True,
        False,
    ]
    browser.run("document.getElementById('copy').click(); new Promise(done => setTimeout(done, 100))")
    assert browser.run("document.getElementById('copied').textContent") in ("copied", "selected: press Ctrl+C")
    assert browser.run("document.getElementById('csv').value") == tables.comma_separated(rich["rows"])
    assert browser.complaints() == []


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None or sys.platform == "win32", reason="needs Chromium")
def test_without_a_script_the_plots_and_numbers_are_still_there(browser, result, tmp_path):
    out = tmp_path / "report.html"
    write_report(result, out)
    browser.open(out, script=False)
    root = browser.ask("DOM.getDocument", depth=1)["root"]["nodeId"]
    assert len(browser.ask("DOM.querySelectorAll", nodeId=root, selector=".plane .point > title")["nodeIds"]) == 5
    hidden = browser.ask("DOM.querySelector", nodeId=root, selector="#copy")["nodeId"]
    with pytest.raises(AssertionError, match="Could not compute box model"):
        browser.ask("DOM.getBoxModel", nodeId=hidden)
