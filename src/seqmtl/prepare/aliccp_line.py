"""What is wrong with a line of Ali-CCP: only called for lines that could not be read."""

from __future__ import annotations

from collections.abc import Container, Sequence

from seqmtl.prepare.raw import shown
from seqmtl.prepare.vocabulary import MISSING

# In the order of AITM's table: the user and its profile; the item, crosses of the user's history with it, the position.
FIELDS = (
    *("101", "121", "122", "124", "125", "126", "127", "128", "129"),
    *("205", "206", "207", "216", "508", "509", "702", "853", "301"),
)
# Multi-valued: what the user did before, by category, shop, brand and intention; the item's intentions. Read only if asked for.
BAGS = ("109_14", "110_14", "127_14", "150_14", "210")
MOST_DIGITS = 10  # of an id, and of a number of features


def explain(
    line: bytes, n_fields: int, places: Container[bytes] | None, open_end: bool, bags: Sequence[str] = ()
) -> tuple[str, str]:
    """The reason (a key to count by) and the words for a user.

    Args:
        n_fields: comma-separated fields of a right line, 6 in a skeleton, 3 in common features.
        places: the known common-feature indices, None in a file of common features.
        open_end: it is the last line and has no line feed.
        bags: the multi-valued fields that are read.
    """
    if open_end:
        return (
            "truncated",
            f"the file ends in the middle of this line ({shown(line[-40:])}): it was not copied or downloaded whole",
        )
    try:
        line.decode()
    except UnicodeDecodeError as e:
        return "utf8", f"byte {e.start + 1} (0x{line[e.start]:02x}) is not UTF-8"
    parts = line.split(b",")
    if len(parts) != n_fields:
        return "fields", f"{len(parts)} comma-separated fields instead of {n_fields} ({shown(line)})"
    if any(separator in b"".join(parts[:-1]) for separator in (b"\x01", b"\x02", b"\x03")):
        return "feature", f"a separator of features (\\x01, \\x02, \\x03) stands before the features ({shown(line)})"
    if places is not None:
        for name, label in (("click", parts[1]), ("purchase", parts[2])):
            if label not in (b"0", b"1"):
                return "label", f"the {name} label is {shown(label)}, it must be 0 or 1"
        if parts[3] not in places:
            return "common_feature", f"the common-feature index {shown(parts[3])} is not in the file of common features"
    return _explain_features(parts[-1], parts[-2], {*FIELDS, *bags})


def _explain_features(text: bytes, n: bytes, names: Container[str]) -> tuple[str, str]:
    features = text.split(b"\x01") if text else []
    if not _fits(n) or int(n) != len(features):
        return "feature_num", f"feature_num says {shown(n)}, but there are {len(features)} features"
    for feature in features:
        name, _, rest = feature.partition(b"\x02")
        number, separator, value = rest.partition(b"\x03")
        if not separator or b"\x02" in rest or b"\x03" in value:
            return "feature", f"feature {shown(feature)} is not of the form field \\x02 id \\x03 value"
        if name.decode() in names and not (_fits(number) and int(number) < MISSING):
            return "id", f"the id of field {name.decode()} is {shown(number)}, it must be a number from 0 to {MISSING - 1}"
    return "feature", f"its features cannot be read ({shown(text)})"


def _fits(number: bytes) -> bool:
    return number.isdigit() and len(number) <= MOST_DIGITS
