"""A report that ends early, by Ctrl-C or an error, does not wait for the figures that it would have had."""

import threading

import pytest
from deadlines import HANG
from fake_run import run_folder, sweep

from analysis.input.run_points import read_run
from analysis.report import export, output, page
from analysis.study import analyse_all
from analysis.verdict import verdict


def test_figures_that_wait_are_not_drawn(tmp_path, monkeypatch):
    begun, ended, may_end = [], [], threading.Event()

    def draw_slowly(made):
        begun.append(made)
        ended.append(may_end.wait(HANG))
        return {}

    def interrupt(*_):
        raise KeyboardInterrupt

    table, options = read_run(run_folder(tmp_path / "run", sweep({"num_images=1000": 3.0})).storage.address)
    analyses = analyse_all(table, options)
    monkeypatch.setattr(export, "draw", draw_slowly)
    monkeypatch.setattr(page, "sections", interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            output.write(str(tmp_path / "report"), table, analyses, verdict(analyses))
        assert len(begun) <= 1
        assert ended == []
    finally:
        may_end.set()
    assert not (tmp_path / "report").exists()
