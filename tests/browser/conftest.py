"""A headless Chromium, shared by all tests of pages."""

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
)


def _missing() -> str | None:
    """What is not installed, as a sentence."""
    programs = ("chromium", "chromedriver")
    absent = [name for name in programs if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


@pytest.fixture(scope="session")
def _driver() -> Iterator[Any]:
    missing = _missing()
    if missing and os.environ.get("MPT_REQUIRE_BROWSER") == "1":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    webdriver = pytest.importorskip("selenium.webdriver")

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def browser(_driver: Any) -> Callable[..., Any]:
    """`browser(width=1280, height=1000, dark=False)` is a Selenium driver of an empty page.

    There is one driver; to call it again changes that one.
    """

    def call(width: int = 1280, height: int = 1000, *, dark: bool = False) -> Any:
        _driver.get("about:blank")
        _driver.get_log("browser")  # what the page before has told
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        _driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        _driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        return _driver

    return call
