"""What each provider showed, kept in docs/providers.md: the run fails when it differs. UPDATE_EXPECT=1 writes it."""

import os
import pathlib

import servers

DOCUMENT = pathlib.Path(__file__).resolve().parents[2] / "docs" / "providers.md"
BEGIN, END = "<!-- conformance: made by tests/conformance/run -->\n", "<!-- end of conformance -->"
_results = {}  # (feature, server) -> word


def note(feature, server, word):
    _results[feature, server] = word


def check():
    features = list(dict.fromkeys(feature for feature, _ in _results))
    names = [kind.name for kind in servers.ALL]
    missing = [(feature, name) for feature in features for name in names if (feature, name) not in _results]
    assert not missing, f"only a whole run makes the table; not run: {missing}"
    lines = [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    lines += [f"| {feature} | {' | '.join(_results[feature, name] for name in names)} |" for feature in features]
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = before + BEGIN + "\n".join(lines) + "\n" + END + after
    if os.environ.get("UPDATE_EXPECT"):
        DOCUMENT.write_text(made)
    assert made == DOCUMENT.read_text(), "the table in docs/providers.md is not what happened: UPDATE_EXPECT=1 and look"
