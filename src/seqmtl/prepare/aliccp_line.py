"""What is wrong with a line of Ali-CCP: only called for lines that could not be read."""

from __future__ import annotations

from collections.abc import Container

from seqmtl.prepare.raw import shown

# In the order of AITM's table: the user and its profile; the item, crosses of the user's history with it, the position.
FIELDS = (
    *("101", "121", "122", "124", "125", "126", "127", "128", "129"),
    *("205", "206", "207", "216", "508", "509", "702", "853", "301"),
)
MISSING = 2**31 - 1  # stands for "no such field in this row" among raw ids, which must be smaller


def explain(line: bytes, n_fields: int, places: Container[bytes] | None, open_end: bool) -> tuple[str, str]:
    """The reason (a key to count by) and the words for a user.

    Args:
        n_fields: comma-separated fields of a right line, 6 in a skeleton, 3 in common features.
        places: the known common-feature indices, None in a file of common features.
        open_end: it is the last line and has no line feed.
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
    if places is not None:
        for name, label in (("click", parts[1]), ("purchase", parts[2])):
            if label not in (b"0", b"1"):
                return "label", f"the {name} label is {shown(label)}, it must be 0 or 1"
        if parts[3] not in places:
            return "common_feature", f"the common-feature index {shown(parts[3])} is not in the file of common features"
    return _explain_features(parts[-1], parts[-2])


def _explain_features(text: bytes, n: bytes) -> tuple[str, str]:
    features = text.split(b"\x01") if text else []
    if not n.isdigit() or int(n) != len(features):
        return "feature_num", f"feature_num says {shown(n)}, but there are {len(features)} features"
    for feature in features:
        name, _, rest = feature.partition(b"\x02")
        number, separator, value = rest.partition(b"\x03")
        if not separator or b"\x02" in rest or b"\x03" in value:
            return "feature", f"feature {shown(feature)} is not of the form field \\x02 id \\x03 value"
        if name.decode() in FIELDS and not (number.isdigit() and int(number) <= MISSING):
            return "id", f"the id of field {name.decode()} is {shown(number)}, it must be a number from 0 to {MISSING - 1}"
    return "feature", f"its features cannot be read ({shown(text)})"
