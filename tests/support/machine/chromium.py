"""A real browser, driven over its DevTools protocol by a socket and nothing else."""

import json
import subprocess
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Literal
from urllib.request import urlopen

from websockets.sync.client import ClientConnection, connect

from tests.support.machine.needs import needs_program
from tests.support.machine.waiting import wait_for

Scheme = Literal["light", "dark"]

_START_SECONDS = 60.0
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # of Chromium's own; a container has no user namespaces
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


class Tab:
    """One tab; what goes wrong in its pages is kept in `complaints`."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._numbers = socket, count(1)
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message))
        while True:
            found = json.loads(self._socket.recv(timeout=_START_SECONDS))
            if found.get("id") == number:
                assert "error" not in found, found["error"]
                return dict(found["result"])
            self._note(found)

    def _note(self, event: dict[str, Any]) -> None:
        if event["method"] == "Log.entryAdded":
            self.complaints.append(event["params"]["entry"]["text"])
        if event["method"] == "Runtime.exceptionThrown":
            self.complaints.append(str(event["params"]["exceptionDetails"]))

    def run(self, script: str) -> Any:
        """Returns what a script's value is, once it is settled."""
        found = self.call(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def show(
        self,
        url: str,
        *,
        width: int = 1280,
        scheme: Scheme = "light",
        token: str | None = None,
        scripts: bool = True,
    ) -> None:
        """Opens a page and waits until it is there."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        preference = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[preference])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        if token is not None:
            given = b64encode(f"duty:{token}".encode()).decode()
            headers = {"Authorization": f"Basic {given}"}
            self.call("Network.setExtraHTTPHeaders", headers=headers)
        self.call("Page.navigate", url=url)
        wait_for(lambda: self.run("document.readyState") == "complete", _START_SECONDS)

    def press(self, key: str) -> None:
        """Presses a key of the keyboard: Tab, Enter or ArrowRight."""
        code = {"Tab": 9, "Enter": 13, "ArrowRight": 39}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        same = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **same, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **same)

    def picture(self) -> bytes:
        """Returns the whole page as a PNG."""
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return b64decode(taken["data"])


@contextmanager
def open_tab() -> Iterator[Tab]:
    """Starts Chromium with one tab; skips where there is none."""
    (program,) = needs_program("chromium", required=False)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        profile = f"--user-data-dir={folder}"
        process = subprocess.Popen(
            [program, *_FLAGS, profile, "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            place = Path(folder) / "DevToolsActivePort"
            wait_for(lambda: place.exists() and place.read_text(), _START_SECONDS)
            port = int(place.read_text().split()[0])
            with urlopen(f"http://127.0.0.1:{port}/json/list") as found:
                pages = [one for one in json.load(found) if one["type"] == "page"]
            url = pages[0]["webSocketDebuggerUrl"]
            with connect(url, max_size=None, proxy=None) as socket:
                yield Tab(socket)
        finally:
            process.terminate()
            process.wait(_START_SECONDS)
