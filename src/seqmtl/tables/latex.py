"""table.tex: a table environment for each part, to be put into a paper with `\\input`. Needs booktabs; wide ones graphicx, too."""

from __future__ import annotations

from collections.abc import Callable

from seqmtl.tables import words
from seqmtl.tables.content import Column, Part, Row, Table

WIDE = 5  # columns that fit the text of an article; more are shrunk to its width

_MATH = {
    **{"±": r"\pm", "−": "-", "×": r"\times", "→": r"\rightarrow", "≤": r"\leq", "≥": r"\geq", "≈": r"\approx", "·": r"\cdot"},
    **{"<": "<", ">": ">", "|": "|", "α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "δ": r"\delta", "ε": r"\epsilon"},
    **{"ζ": r"\zeta", "η": r"\eta", "θ": r"\theta", "λ": r"\lambda", "μ": r"\mu", "π": r"\pi", "σ": r"\sigma", "τ": r"\tau"},
    **{"φ": r"\phi", "χ": r"\chi", "ψ": r"\psi", "ω": r"\omega", "Δ": r"\Delta", "Σ": r"\Sigma", "Ω": r"\Omega"},
}
_TEXT = {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "†": r"\textdagger{}"},
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"–": "--", "—": "---", "…": r"\ldots{}", "“": "``", "”": "''", '"': "''", "’": "'", "‘": "`", "\u00a0": "~"},
}
_ESCAPES = str.maketrans({character: f"${command}$" for character, command in _MATH.items()} | _TEXT)


def latex(table: Table) -> str:
    """All parts, under a comment that says what made them."""
    made = " ".join(f"Made by seqmtl at {table.made}, commit {table.git_commit or 'unknown'}: {table.command}".split())
    return "\n".join([f"% {made}", r"% Needs \usepackage{booktabs} and, for wide tables, \usepackage{graphicx}.", ""]) + "\n".join(
        _part(table, part) for part in table.parts
    )


def escaped(text: str) -> str:
    """Text in which no character means anything to LaTeX, on one line."""
    return " ".join(text.split()).translate(_ESCAPES)


def _part(table: Table, part: Part) -> str:
    printed = [column for column in part.columns if words.has_published(part, column)]
    own = sum(1 + words.has_gain(part, column) for column in part.columns)
    width = 1 + own + len(printed)
    environment = "table*" if width > WIDE else "table"
    rows = [_row(part, row, printed) for row in part.table_rows]
    if part.oracle:
        rows += [r"\midrule", _line(escaped(words.ORACLE), *_oracle(part, printed))]
    tabular = [f"\\begin{{tabular}}{{l{'c' * (width - 1)}}}", r"\toprule", *_head(part, own, printed)]
    tabular += [r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"]
    if width > WIDE:
        tabular = [r"\resizebox{\textwidth}{!}{%", *tabular, "}"]
    label = "".join(c if c.isalnum() or c in "-_" else "-" for c in f"{table.name}-{part.name}")
    notes = [words.comparability(table, part), *part.remarks, *_missing(part), *words.legend(part)]
    return "\n".join(
        [
            f"\\begin{{{environment}}}[t]",
            r"\centering",
            f"\\caption{{{escaped(table.title)}: {escaped(part.name)}, on {escaped(words.data_said(part))}.}}",
            f"\\label{{tab:{label}}}",
            *tabular,
            "",
            r"\smallskip\footnotesize\raggedright",
            *(escaped(note) for note in notes if note),
            f"\\end{{{environment}}}",
            "",
        ]
    )


def _line(*cells: str) -> str:
    line = " & ".join(cells) + r" \\"
    return "{}" + line if line[0] in "[*" else line  # else they belong to the \\\\ of the line before


def _head(part: Part, own: int, printed: list[Column]) -> list[str]:
    titles = []
    for column in part.columns:
        titles += [escaped(column.title), *(["gain"] if words.has_gain(part, column) else [])]
    head = _line("", *titles, *(escaped(column.title) for column in printed))
    if not printed:
        return [head]
    comparable = "published" if part.comparable else "published (not comparable)"
    groups = _line("", f"\\multicolumn{{{own}}}{{c}}{{seqmtl}}", f"\\multicolumn{{{len(printed)}}}{{c}}{{{comparable}}}")
    rules = f"\\cmidrule(lr){{2-{own + 1}}}\\cmidrule(lr){{{own + 2}-{own + 1 + len(printed)}}}"
    return [groups, rules, head]


def _row(part: Part, row: Row, printed: list[Column]) -> str:
    done = len(row.runs) - len(row.missing)
    label = escaped(row.label) + (f" ({done} of {len(row.runs)} seeds)" if row.missing else "")
    cells = []
    for column in part.columns:
        shown = words.shown(part, row, column)
        mark = escaped(shown.stars) + escaped(shown.mark)
        cells.append(_by_place(shown.place)(escaped(shown.text)) + (f"\\textsuperscript{{{mark}}}" if mark else ""))
        if words.has_gain(part, column):
            cells.append(escaped(shown.gain).replace("-", "$-$") if shown.gain[:1] == "-" else escaped(shown.gain))
    for column in printed:
        shown = words.shown(part, row, column)
        stars = shown.published_stars
        cells.append(escaped(shown.published) + (f"\\textsuperscript{{{escaped(stars)}}}" if stars else ""))
    return _line(label, *cells)


def _by_place(place: int | None) -> Callable[[str], str]:
    return {1: "\\textbf{{{}}}".format, 2: "\\underline{{{}}}".format}.get(place or 0, "{}".format)


def _oracle(part: Part, printed: list[Column]) -> list[str]:
    cells = []
    for column in part.columns:
        cells += [escaped(words.oracle_shown(part, column)), *([""] if words.has_gain(part, column) else [])]
    return cells + [""] * len(printed)


def _missing(part: Part) -> list[str]:
    return [f"{row.label}: {words.seeds_said(row, most=200)}." for row in part.table_rows if row.missing]
