"""The store's page in a real browser: frames that change, curves that are drawn, whose steps they were."""

import json
import urllib.error
import urllib.request

import cv2
import numpy as np
import pytest

from robot_rl import cli
from robot_rl.errors import ConfigError
from robot_rl.store import EpisodeStore
from robot_rl.view import StoreView, serve
from tests.browser import CHROMIUM, Browser


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    path = tmp_path_factory.mktemp("view") / "demos"
    assert cli.main(["demo", "reach", "--episodes", "3", "--out", str(path), "--set", "observations=vision",
                     "image_size=64"]) == 0  # fmt: skip
    return path


@pytest.fixture
def address(recorded):
    server, port = serve(StoreView(recorded), 0)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True


def get(url):
    with urllib.request.urlopen(url) as answer:
        return answer.read()


def test_what_the_page_is_told_is_what_the_store_holds(recorded, address):
    store = EpisodeStore.open(recorded)
    told = json.loads(get(f"{address}/episodes"))
    assert [e["length"] for e in told["episodes"]] == [r.length for r in store.episode_table()]
    assert told["cameras"] == ["front", "wrist"]
    record = store.episode_table()[1]
    episode = json.loads(get(f"{address}/episode/1"))
    rows = store.read(record.start, record.stop, ["observation/state", "action", "observation/images/wrist"])
    assert episode["sources"] == ["script"] * record.length
    assert {"action", "reward", "wrench_tcp", "tcp_pose", "twist_tcp", "gripper_opening"} <= episode["groups"].keys()
    np.testing.assert_allclose(episode["groups"]["action"]["2"], rows["action"][:, 2], atol=1e-6)
    layout = store.metadata["state_layout"]["wrench_tcp"]
    np.testing.assert_allclose(
        episode["groups"]["wrench_tcp"]["1"], rows["observation/state"][:, layout[0] + 1], atol=1e-5
    )
    picture = cv2.imdecode(np.frombuffer(get(f"{address}/picture/1/wrist/3"), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    expected = cv2.resize(rows["observation/images/wrist"][3], None, fx=3, fy=3)
    assert np.abs(picture.astype(int) - expected).mean() < 6


@pytest.mark.parametrize("path", ["/episode/9", "/picture/0/side/0", "/picture/0/front/999", "/episode/-1"])
def test_what_is_not_there_is_said(address, path):
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(address + path)
    assert caught.value.code == 404
    assert b"error" in caught.value.read()


def test_a_port_that_is_taken_is_said(recorded, address):
    with pytest.raises(ConfigError, match="--port"):
        serve(StoreView(recorded), int(address.rsplit(":", 1)[1]))


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: sudo apt-get install chromium")
def test_in_a_browser(address, tmp_path):
    browser = Browser()
    try:
        browser.open(address)
        browser.until("document.body && document.body.dataset.ready === 'yes'")
        assert browser.evaluate("document.querySelectorAll('#list button').length") == 3
        browser.until("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        first = cv2.imread(str(browser.screenshot(tmp_path / "first.png")))
        browser.evaluate("document.querySelectorAll('#list button')[2].click()")
        browser.until("document.title.startsWith('episode 2')")
        browser.evaluate("$('row').value = 2; show()")
        browser.until("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        then = cv2.imread(str(browser.screenshot(tmp_path / "then.png")))
        drawn = browser.evaluate(
            "[...document.querySelectorAll('canvas')].every(c => new Uint32Array(c.getContext('2d')"
            ".getImageData(0, 0, c.width, c.height).data.buffer).some(p => p))"
        )
        assert drawn, "a curve in every card"
        assert first.shape == then.shape == (800, 1280, 3)
        assert np.abs(first.astype(int) - then).mean() > 0.5
        browser.evaluate("$('play').click()")
        browser.until("Number($('row').value) > 3")
        assert browser.errors == []
    finally:
        browser.close()
