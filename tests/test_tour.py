"""The notebook docs/tour.ipynb: runs from top to bottom in an empty folder, and shows what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALLER = {"pretrain.images_seen": 24000, "task.train_images": 1000, "finetune.epochs": 4}  # a third of its time
nbformat = pytest.importorskip("nbformat")


def notebook():
    return nbformat.read(ROOT / "docs" / "tour.ipynb", as_version=4)


def test_the_notebook_is_kept_without_outputs():
    tour = notebook()
    nbformat.validate(tour)
    cells = [cell for cell in tour.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.slow
@pytest.mark.ray
def test_the_notebook_runs_and_shows_tables_and_figures(tmp_path, monkeypatch):
    client, convert = pytest.importorskip("nbclient"), pytest.importorskip("nbconvert")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    tour = notebook()
    (run,) = (cell for cell in tour.cells if 'rr.sweep("quickstart"' in cell.source)
    run.source = run.source.replace('"seeds": 3', f'"seeds": 3, **{SMALLER}')
    assert str(SMALLER) in run.source
    client.NotebookClient(tour, timeout=None, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in tour.cells for output in cell.get("outputs", ())]
    assert [output for output in shown if output.output_type == "error"] == []
    page, _ = convert.HTMLExporter().from_notebook_node(tour)
    (tmp_path / "tour.html").write_text(page)  # to be looked at
    assert page.count('src="data:image/png') >= 3
    assert "points of ER (" in page
    assert page.count('class="dataframe"') >= 5
    last = tour.cells[-1].outputs[0].text.splitlines()
    assert last[0] == "DataFrame: ood: no column 'shiftd'; did you mean shifted?"
    assert last[1] == "spec: pretain: unknown key; did you mean pretrain?"
    assert (tmp_path / "groups.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "runs/quickstart/report/index.html").exists()
