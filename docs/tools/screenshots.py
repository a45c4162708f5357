"""Takes compare.png and dashboard.png in docs/images, by a headless Chromium.

command: python docs/tools/screenshots.py SWEEP RUN

SWEEP is a folder that `mpt train -m` left: its page by `mpt compare SWEEP --html`. RUN is a run's:
TensorBoard's dashboard by `mpt board RUN`. chromium and chromedriver must be installed.
"""

import io
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.image as mpl_image
import numpy as np
from selenium import webdriver

IMAGES = Path(__file__).resolve().parents[1] / "images"
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")
SECONDS = 90.0
# Text of the page, through shadow roots.
TEXT = """
let found = '';
const walk = (node) => {
  if (node.nodeType === Node.TEXT_NODE) found += ' ' + node.textContent;
  if (node.shadowRoot) walk(node.shadowRoot);
  node.childNodes.forEach(walk);
};
walk(document.body);
return found;
"""


@contextmanager
def browser(width: int, height: int) -> Iterator[Any]:
    """A Chromium whose page has this size, in pixels."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (*FLAGS, f"--window-size={width},{height}"):
        options.add_argument(flag)
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        yield driver
    finally:
        driver.quit()


def save(driver: Any, file: Path) -> None:
    """Write what the browser shows, with as few colours as a page has: 256."""
    pixels = mpl_image.imread(io.BytesIO(driver.get_screenshot_as_png()))[..., :3]
    mpl_image.imsave(file, np.round(pixels * 31) / 31)
    print(f"docs/images/{file.name}")


def comparison(sweep: str) -> None:
    """The first screen of the page of a comparison."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        mpt = [sys.executable, "-m", "mpt"]
        subprocess.run([*mpt, "compare", sweep, "--html", str(page)], check=True)
        with browser(1000, 900) as driver:
            driver.get(page.as_uri())
            save(driver, IMAGES / "compare.png")


def dashboard(run: str) -> None:
    """The layout that mpt gives to TensorBoard's page of custom scalars."""
    with tempfile.TemporaryDirectory(prefix="mpt-") as folder:  # TensorBoard shows where it lies
        copy = shutil.copytree(run, Path(folder) / Path(run).name)
        with board(copy) as address, browser(1400, 1000) as driver:
            driver.get(f"{address}/#custom_scalars")
            end = time.monotonic() + SECONDS
            while "loss scale" not in driver.execute_script(TEXT).lower():
                assert time.monotonic() < end, "the dashboard does not come"
                time.sleep(0.5)
            time.sleep(5)  # the curves are drawn one after another
            save(driver, IMAGES / "dashboard.png")


@contextmanager
def board(run: Path) -> Iterator[str]:
    """The address of `mpt board` over a run."""
    command = [sys.executable, "-m", "mpt", "board", str(run), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            (address,) = re.findall(r"http://\S+", server.stdout.readline())
            yield address.rstrip("/")
        finally:
            server.terminate()


if __name__ == "__main__":
    comparison(sys.argv[1])
    dashboard(sys.argv[2])
