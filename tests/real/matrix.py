"""The table of faults in docs/faults.md: made by the run, compared with what is written there."""

import os
import pathlib

DOCUMENT = pathlib.Path(__file__).resolve().parents[2] / "docs" / "faults.md"
_BEGIN, _END = "<!-- matrix -->\n", "<!-- /matrix -->"
_HEAD = "| what breaks | what the caller sees | refreshes that Keycloak acted on | the session |\n|---|---|---|---|\n"

_rows = {}


def row(number, what, caller, refreshes, session):
    """What happened in one case; the texts must be the same in every run."""
    _rows[number] = f"| {what} | {caller} | {refreshes} | {session} |\n"


def check():
    """Compares the rows of this run with the document's, or writes them with UPDATE_EXPECT=1."""
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(_BEGIN)
    written, _, after = rest.partition(_END)
    if os.environ.get("UPDATE_EXPECT") == "1":
        table = _HEAD + "".join(_rows[number] for number in sorted(_rows))
        DOCUMENT.write_text(before + _BEGIN + table + _END + after)
        return
    missing = [line for line in _rows.values() if line not in written]
    assert not missing, f"{DOCUMENT.name} does not say (UPDATE_EXPECT=1 rewrites it):\n{''.join(missing)}"
