"""Names that users choose: those that tables, their readers and files keep apart from everything else."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

__all__ = ["SUMMARY", "file_stem", "is_missing", "name_error"]

MISSING = frozenset(
    ("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
     "NULL", "NaN", "None", "n/a", "nan", "null")
)  # fmt: skip
"""Texts that pandas or R read as a missing value, besides the empty one."""
WORDS = frozenset(("none", "nil", "true", "false", "inf", "infinity", *(text.lower() for text in MISSING)))
"""Texts, in lower case, that some reader takes for a missing value, a truth value or a number."""
ENDS = ("", "-wide", "-pairs", "-appendix", "-budgets")
"""Of the names of a data set's tables."""
SUMMARY = "summary"
"""How the names of the tables over all data sets of a folder begin."""
LONGEST_STEM = 80
"""Characters of a label with which files' names begin."""
LONGEST = 100
"""Characters of a name."""


def is_missing(text: str) -> bool:
    """Whether common readers of tables take a text for a missing value."""
    return text.strip() in MISSING


def name_error(name: str) -> str:
    """Why a variable or a plugin cannot have a name, in words that follow on it; empty where it can.

    A name begins with a letter or _ and has letters (of any script, with their accents), digits, _, -, dots and blanks.
    """
    if not name or len(name) > LONGEST:
        return f"has {len(name):,} characters; take 1 to {LONGEST}"
    if name.lower() in WORDS:
        return "is a word that readers of tables take for a missing value, a number or a truth value; take another name"
    if not (name[0].isalpha() or name[0] == "_"):
        return f"begins with {name[0]!r}; begin with a letter or _"
    if bad := next((c for c in name if not _allowed(c)), None):
        return f"has {bad!r} in it; take letters, digits, _ and -"
    return "ends with a blank; remove it" if name != name.strip() else ""


def file_stem(label: str, labels: Iterable[str] = ()) -> str:
    """How the names of a data set's files begin: its label, and a digest where other files have such names.

    Args:
        label: of the data set.
        labels: of all data sets whose files are in the same folder.
    """
    plain = _plain(label)
    others = {f"{_plain(other)}{end}".lower() for other in labels if other != label for end in ENDS} | {SUMMARY}
    digest = hashlib.sha256(label.encode()).hexdigest()[:8]
    if len(plain) > LONGEST_STEM:
        return f"{plain[:LONGEST_STEM].rstrip('_.-')}-{digest}"
    return f"{plain}-{digest}" if plain.lower() in others else plain


def _plain(label: str) -> str:
    """A label with a _ for what stands between its letters and digits: ``folder_path_faces`` of folder[path=faces]."""
    return re.sub(r"[^\w.\-]+", "_", label).strip("_") or "_"


def _allowed(letter: str) -> bool:
    """Whether a name may hold a character; accents may be characters of their own, which follow their letter."""
    return letter in "_-. " or unicodedata.category(letter)[0] in "LNM"
