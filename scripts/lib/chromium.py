"""A headless Chromium, told what to do over a pipe (the DevTools protocol): nothing listens on a port."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

from harness import Failed, end_process

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-pipe",
]


class Chromium:
    """Use as a context. One page; what goes wrong on it is kept in `complaints`."""

    def __init__(self, program="chromium", more=()):
        self.profile = tempfile.mkdtemp(prefix="fansync-chromium.", dir="/tmp")
        to_child, self.out = os.pipe()
        self.back, from_child = os.pipe()

        def pipes():
            # The program reads descriptor 3 and writes 4. Away first: one of ours may be 3 or 4.
            low, high = os.dup(to_child), os.dup(from_child)
            high = os.dup2(high, 60)
            os.dup2(low, 3)
            os.dup2(high, 4)

        command = [program, *FLAGS, f"--user-data-dir={self.profile}", *more, "about:blank"]
        self.child = subprocess.Popen(
            command, preexec_fn=pipes, close_fds=False, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_child)
        os.close(from_child)
        self.last, self.rest, self.complaints, self.session = 0, b"", [], None

    def __enter__(self):
        try:
            pages = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
            attached = self.call("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
            self.session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                self.call(domain + ".enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        end_process(self.child, 5.0)
        os.close(self.out)
        os.close(self.back)
        shutil.rmtree(self.profile, ignore_errors=True)

    def receive(self, deadline):
        while b"\0" not in self.rest:
            if not select.select([self.back], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise Failed("Chromium does not answer")
            more = os.read(self.back, 1 << 16)
            if not more:
                raise Failed("Chromium ended")
            self.rest += more
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def call(self, method, **parameters):
        """Carries out one command and gives its result; events that come meanwhile are looked through for complaints."""
        self.last += 1
        message = {"id": self.last, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 60
        while True:
            got = self.receive(deadline)
            if got.get("id") == self.last:
                if "error" in got:
                    raise Failed(f"{method}: {got['error']}")
                return got["result"]
            self.hear(got)

    def hear(self, event):
        said = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(said["exceptionDetails"].get("exception", said["exceptionDetails"])))
        if event.get("method") == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")

    def run(self, script):
        """The value of a JavaScript expression."""
        got = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in got:
            raise Failed(f"{script}: {got['exceptionDetails']}")
        return got["result"].get("value")

    def go(self, url):
        self.call("Page.navigate", url=url)

    def look(self, width, height, dark):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="screen", features=[scheme])

    def screenshot(self, path):
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        with open(path, "wb") as file:
            file.write(base64.b64decode(shot["data"]))
