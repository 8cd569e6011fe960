"""Tables as LaTeX with booktabs, whatever users called their groups: `\\input{export/contrasts.tex}`.

Owns the escaping. The files ask for `\\usepackage{booktabs,graphicx}`; letters beyond Latin want XeLaTeX.
"""

from __future__ import annotations

import re

from analysis.report.tables import ReportTable
from ray_robust.text.names import printable

# one pass over the text, so that what one replacement writes is not replaced by another
ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "…": r"\ldots{}", "-": "{-}", "−": r"$-$", "–": "--", "×": r"$\times$",
    "±": r"$\pm$", "²": r"\textsuperscript{2}", "“": "``", "”": "''", "’": "'", "\u202f": r"\,", "\u00a0": "~",
    "[": "{[}", "]": "{]}", "\u2068": "", "\u2069": "",
}  # fmt: skip
FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{"  # a wide table shrinks to the text's width
_ANY = re.compile("|".join(map(re.escape, ESCAPES)))
_BREAK = re.compile(r" *[\n\t][ \n\t]*")


def escape(text: str) -> str:
    """Return text that LaTeX shows as it stands. A line break becomes a space, what cannot be printed its escape; a
    hyphen stays one (two of them would be a dash), a bracket cannot open an option."""
    return _ANY.sub(lambda match: ESCAPES[match[0]], _BREAK.sub(" ", printable(text)))


def table(report_table: ReportTable, label: str) -> str:
    """A floating table: caption, one column per column, numbers to the right, `\\label{tab:LABEL}`."""
    columns = "".join("r" if "n" in kind.split() else "l" for kind in report_table.kinds)
    lines = [" & ".join(map(escape, cells)) + r" \\" for cells in (report_table.columns, *report_table.rows)]
    note = [r"\par\smallskip\footnotesize " + escape(report_table.note)] if report_table.note else []
    return "\n".join(
        [
            r"% needs \usepackage{booktabs,graphicx}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(report_table.caption)}}}",
            rf"\label{{tab:{label}}}",
            FIT + rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}}",
            *note,
            r"\end{table}",
            "",
        ]
    )
