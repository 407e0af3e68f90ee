"""Takes pictures of what a person sees in MLflow.

A study with its trials, one trial's charts, the description, parallel coordinates, and a registered policy:

    metatuner demo
    metatuner policies push agent/policies/schedule-default --alias champion
    python experiments/mlflow_page/screenshot.py [--tracking-uri URI] [--experiment metatuner-demo] [--out FOLDER]

Drives a headless Chromium over the WebDriver protocol (Debian's packages chromium and chromium-driver). Fails where a
page does not show what it should.
"""

from __future__ import annotations

import argparse
import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metatuner.tracking.registry import versions
from metatuner.tracking.store import connect, resolve
from metatuner.tracking.ui import UiServer

OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE_S = 60.0
EXPANDER = ".ag-row button[data-component-id*=runnamecellrenderer]"


class Browser:
    """One headless browser window, spoken to through chromedriver."""

    def __init__(self, address: str) -> None:
        self._address = address
        capabilities = {"alwaysMatch": {"goog:chromeOptions": {"args": list(OPTIONS)}}}
        self._session = self._call("POST", "/session", {"capabilities": capabilities})["sessionId"]

    def open(self, url: str, width: int = 1600, height: int = 1000) -> None:
        """Goes to a page."""
        self._ask("POST", "/window/rect", {"width": width, "height": height})
        self._ask("POST", "/url", {"url": url})

    def run(self, script: str) -> Any:
        """Runs JavaScript in the page and returns its value."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": []})

    def wait_for(self, condition: str) -> None:
        """Waits until a JavaScript expression is true."""
        end = time.monotonic() + PATIENCE_S
        while not self.run(f"return Boolean({condition})"):
            if time.monotonic() > end:
                raise SystemExit(f"the page does not show what it should: {condition}")
            time.sleep(0.2)

    def picture(self, path: Path) -> None:
        """Saves what the window shows."""
        time.sleep(1.0)  # animations of charts
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def close(self) -> None:
        """Closes the window."""
        self._ask("DELETE", "")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._call(method, f"/session/{self._session}{path}", body)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._address + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser, and its driver for as long as it is needed."""
    driver = shutil.which("chromedriver")
    if driver is None:
        raise SystemExit("chromedriver is needed: for instance `apt-get install chromium chromium-driver`")
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen([driver, "--port=0"], stdout=log) as process:
        try:
            window = Browser(f"http://127.0.0.1:{_port(process, log)}")
            yield window
            window.close()
        finally:
            process.terminate()


def _port(process: subprocess.Popen[bytes], log: Any) -> int:
    """The port that chromedriver tells when it is ready."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        log.seek(0)
        if "on port " in (line := log.read()) and "successfully" in line:
            return int(line.rsplit("on port ", 1)[1].split(".")[0])
        time.sleep(0.05)
    raise SystemExit("chromedriver did not start")


def take(tracking_uri: str | None, experiment: str, folder: Path) -> list[Path]:
    """Pictures of the latest study in an experiment and of the first registered policy."""
    client = connect(resolve(tracking_uri))
    found = client.get_experiment_by_name(experiment)
    if found is None:
        raise SystemExit(f"no experiment {experiment!r} in the store: run `metatuner demo`, or give --experiment")
    runs = client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"])
    parent = [run for run in runs if "mlflow.parentRunId" not in run.data.tags][-1]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [folder / f"{name}.png" for name in ("runs", "trial", "study", "parallel", "policy")]
    policies = versions(tracking_uri)
    if not policies:
        raise SystemExit("no policy is registered: `metatuner policies push` one")
    mode = "workflowType=machine_learning"
    with UiServer(tracking_uri, port=0) as server, browser() as window:
        base = f"{server.url}/#/experiments/{found.experiment_id}/runs"
        window.open(f"{base}?{mode}")
        window.wait_for(f"document.querySelector({EXPANDER!r})")
        # The side panel of MLflow's assistant takes a quarter of the page.
        window.run("document.querySelector('[aria-label=Close]')?.click()")
        window.run(f"document.querySelector({EXPANDER!r}).click()")
        for child in children[:3]:
            window.wait_for(f"document.body.innerText.includes({json.dumps(child.info.run_name)})")
        window.picture(pictures[0])
        window.open(f"{base}/{children[0].info.run_id}/model-metrics?{mode}", height=1700)
        window.wait_for("document.querySelectorAll('.js-plotly-plot').length >= 6")
        window.wait_for("document.body.innerText.includes('(hp/lr)')")
        window.picture(pictures[1])
        window.open(f"{base}/{parent.info.run_id}?{mode}", height=2100)
        window.wait_for("document.body.innerText.includes('Child runs')")
        window.wait_for("document.querySelector('.note-editor-preview-content h1')")
        window.run("[...document.querySelectorAll('button')].find(b => b.innerText === 'Show more')?.click()")
        window.wait_for("document.body.innerText.includes('Show less')")
        window.picture(pictures[2])
        # Where the description's own link leads.
        link = "[...document.querySelectorAll('.note-editor-preview-content a')].find(a => a.href.includes('compare'))"
        window.wait_for(link)
        window.open(window.run(f"return {link}.href"), height=1100)
        window.wait_for("document.querySelectorAll('.js-plotly-plot .parcoords').length > 0")
        window.picture(pictures[3])
        window.open(f"{server.url}/#/models/{policies[0].name}/versions/{policies[0].version}")
        window.wait_for("document.body.innerText.includes('AdaptiveSchedule')")
        window.picture(pictures[4])
    return pictures


def main() -> None:
    """Runs from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracking-uri", help="the store (default: as for metatuner ui)")
    parser.add_argument("--experiment", default="metatuner-demo", help="its name (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("screenshots"), help="the folder (default: %(default)s)")
    args = parser.parse_args()
    for picture in take(args.tracking_uri, args.experiment, args.out):
        print(picture)


if __name__ == "__main__":
    main()
