"""A real browser for tests: headless Chromium by its DevTools protocol, nothing else between."""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One page. Keys go the way a keyboard's do; `errors` collects what the page's own scripts complain of."""

    def __init__(self, size=(1280, 800)):
        self._profile = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--remote-debugging-port=0", f"--user-data-dir={self._profile.name}", f"--window-size={size[0]},{size[1]}",
             "--disable-background-networking", "--hide-scrollbars", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        port_file, end = Path(self._profile.name) / "DevToolsActivePort", time.monotonic() + 60
        while not (port_file.is_file() and len(port_file.read_text().splitlines()) >= 2):
            assert time.monotonic() < end, "Chromium did not start"
            time.sleep(0.05)
        port = port_file.read_text().splitlines()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            target = next(t for t in json.load(answer) if t["type"] == "page")
        self._open = contextlib.ExitStack()
        self._socket = self._open.enter_context(connect(target["webSocketDebuggerUrl"], max_size=None))
        self._numbers = itertools.count(1)
        self.errors = []
        self._ask("Runtime.enable")
        self._ask("Page.enable")
        self._ask(
            "Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False
        )

    def open(self, address):
        self._ask("Page.navigate", url=address)
        self.until("location.href !== 'about:blank' && document.readyState === 'complete'")

    def evaluate(self, script):
        answer = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, script, seconds=30.0):
        end = time.monotonic() + seconds
        while not (value := self.evaluate(script)):
            assert time.monotonic() < end, f"never: {script}"
            time.sleep(0.05)
        return value

    def key(self, kind, key):
        self._ask("Input.dispatchKeyEvent", type={"down": "keyDown", "up": "keyUp"}[kind], key=key)

    def screenshot(self, path):
        Path(path).write_bytes(base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"]))
        return Path(path)

    def close(self):
        self._open.close()
        self._process.terminate()
        self._process.wait(20)
        self._profile.cleanup()

    def _ask(self, method, **parameters):
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(answer["params"]["exceptionDetails"])
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
