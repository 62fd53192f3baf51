"""MLflow's user interface as `keystep ui` opens it, in a real Chromium. Screenshots are left in `OUT`, for people."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from keystep.search.tracking.ui_server import newest_experiment
from tests.search.mlflow_server import free_port
from tests.search.tracked_search import MiniSearch, make_spec, runs_of

pytestmark = pytest.mark.browser

OUT = Path(__file__).parents[2] / "out" / "browser"
COLUMNS = ("tiam", "held_out/tiam", "timestep", "step_index", "iterations", "iou", "gsng", "keystep.state")
PATIENCE = 60_000  # ms; the first page compiles a lot on a busy machine


def picture(path: Path, color: str) -> Path:
    Image.new("RGB", (320, 200), color).save(path)
    return path


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where `keystep ui` shows a finished search: two complete trials, one pruned, one failed, with pictures."""
    folder = tmp_path_factory.mktemp("shown")
    store = f"sqlite:///{folder}/mlflow.db"
    spec = make_spec(folder, store, artifact_location=str(folder / "artifacts"))
    search = MiniSearch(spec, folder / "runs" / "searches" / spec.search_id).start()
    for step, color in enumerate(["red", "green", "blue"]):
        search.tracker.image("refined at step", step, picture(folder / f"{color}.png", color))
    search.tracker.image("before and after", 0, picture(folder / "sheet.png", "orange"))
    assert search.run().tracker.close(timeout=300)
    port = free_port()
    command = [
        sys.executable,
        "-c",
        "from keystep.search.cli import main; main()",
        "ui",
        "--no-browser",
        "--port",
        str(port),
    ]
    process = subprocess.Popen(
        [*command, "--storage", str(folder / "runs")],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        assert f"http://127.0.0.1:{port}" in process.stdout.readline()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Page]:
    OUT.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium")
    assert chromium, "the browser tests need Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1500, "height": 900})
        context.add_init_script(  # the assistant's panel covers a third of the page
            'localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true")'
        )
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        yield page
        browser.close()


def open_run(page: Page, address: str, tab: str = "") -> None:
    """The parent's page."""
    client = MlflowClient(tracking_uri=address)
    experiment = newest_experiment(address).split("/experiments/")[1].split("/")[0]
    name = client.get_experiment(experiment).name
    (parent,) = runs_of(client, name)["parent"]
    page.goto(f"{address}/#/experiments/{experiment}/runs/{parent.info.run_id}{tab}?workflowType=machine_learning")


def test_the_table_has_sensible_columns_and_trials_nest_under_their_search(page: Page, address: str) -> None:
    page.goto(newest_experiment(address))
    parent = page.get_by_role("link", name="mini", exact=True)
    expect(parent).to_be_visible()
    expect(page.get_by_role("link", name="004 t501 x14")).to_have_count(0)
    for column in COLUMNS:
        expect(page.get_by_role("columnheader", name=column, exact=True).first).to_be_attached()
    page.get_by_role("row").filter(has=parent).get_by_role("button").first.click()
    for name in ("baseline", "000 t901 x10", "001 t801 x11 gsng", "004 t501 x14"):
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
    page.wait_for_timeout(1000)
    page.screenshot(path=OUT / "runs.png")


def test_the_note_renders_with_its_table_and_the_command(page: Page, address: str) -> None:
    open_run(page, address)
    expect(page.get_by_role("heading", name="mini: step")).to_be_visible()
    page.get_by_text("Show more", exact=True).click()
    expect(page.get_by_role("cell", name="all sets", exact=True)).to_be_visible()
    expect(page.get_by_text("better than the unrefined model on 4 held-out prompts").first).to_be_visible()
    page.screenshot(path=OUT / "note.png")


def test_charts_by_timestep_and_pictures_before_and_after(page: Page, address: str) -> None:
    open_run(page, address, "/model-metrics")
    for section in ("cost", "held_out"):  # folded, so that the others are near enough to be drawn
        page.get_by_text(re.compile(rf"^{section}\b")).first.click()
    for title in ("tiam_by_timestep", "best_tiam", "before and after", "refined at step"):
        expect(page.get_by_text(title, exact=True).first).to_be_attached()
    chart = page.get_by_text("tiam_by_timestep", exact=True).first
    chart.scroll_into_view_if_needed()
    expect(page.locator(".js-plotly-plot .scatterlayer").first).to_be_visible()
    page.wait_for_timeout(1500)
    page.screenshot(path=OUT / "charts.png")
    page.get_by_text("refined at step", exact=True).first.scroll_into_view_if_needed()
    pictures = page.locator("img[src*='get-artifact']")
    expect(pictures.first).to_be_visible()
    assert pictures.first.evaluate("image => image.naturalWidth") >= 256, "MLflow shows a smaller copy first"
    page.screenshot(path=OUT / "pictures.png")


def test_the_figures_are_among_the_artifacts(page: Page, address: str) -> None:
    open_run(page, address, "/artifacts/plots/tiam_by_timestep.png")
    expect(page.get_by_role("img", name="plots/tiam_by_timestep.png").first).to_be_visible()
    page.wait_for_function("() => [...document.images].some(image => image.naturalWidth > 800)")
    page.screenshot(path=OUT / "figure.png")
