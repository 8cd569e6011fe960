"""The table of images on which better ID means worse OOD, as people read it."""

from __future__ import annotations

from analysis.formatting import percent
from analysis.report.tables import ReportTable, report_table
from analysis.study import Analysis


def of_subset(analysis: Analysis) -> dict[str, ReportTable]:
    """Return the table by the name of its file; without rows where there is no such subset."""
    rows = analysis.hidden.images.to_dict("records")
    grouped = any(row["test_group"] for row in rows)
    table = report_table(
        "Images on which better ID means worse OOD",
        "OOD images on which models of a better ID score are right less often",
        (
            {
                "image": str(row["image"]),
                "label": str(row["label"]),
                **({"test group": str(row["test_group"])} if grouped else {}),
                "chosen in": percent(row["chosen"], 0),
            }
            for row in rows
        ),
        note="Images are ranked by some trainings and tested by others, how many are taken is decided on other images "
        "than they are tested on, and all is divided anew 25 times: the last column is the share of these divisions.",
    )
    return {"reversed_images": table}
