"""Tables in the documents: made by the run, compared with what is written there."""

import os
import pathlib

_DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"


class Table:
    """One table, between two comments that carry its name."""

    def __init__(self, document, name, *columns):
        self.path = _DOCS / document
        self._begin, self._end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        self._head = f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|\n"
        self._rows = {}

    def row(self, number, *cells):
        """What happened in one case; the texts must be the same in every run."""
        self._rows[number] = f"| {' | '.join(map(str, cells))} |\n"

    def check(self, whole):
        """Compares the rows of this run with the document's, or writes them with UPDATE_EXPECT=1.

        After a whole run the document has no others: one whose test is gone says what nobody has seen.
        """
        text = self.path.read_text()
        before, _, rest = text.partition(self._begin)
        written, _, after = rest.partition(self._end)
        if os.environ.get("UPDATE_EXPECT") == "1":
            table = self._head + "".join(self._rows[number] for number in sorted(self._rows))
            self.path.write_text(before + self._begin + table + self._end + after)
            return
        made = [self._head, *self._rows.values()]
        missing = [line for line in made if line not in written]
        assert not missing, f"{self.path.name} does not say (UPDATE_EXPECT=1 rewrites it):\n{''.join(missing)}"
        lines = "".join(made).splitlines(keepends=True)
        left = "".join(line for line in written.splitlines(keepends=True) if whole and line not in lines)
        assert not left, f"{self.path.name} says what did not happen (UPDATE_EXPECT=1 rewrites it):\n{left}"


class Grid:
    """A table with a column for everything that the same cases were tried on."""

    def __init__(self, document, name):
        self._place = document, name
        self._cells = {}

    def cell(self, number, case, column, what):
        self._cells.setdefault((number, case), {})[column] = what

    def check(self, headings, whole):
        """Compares the cases that every column of `headings` took part in; a filtered run has fewer of them."""
        table = Table(*self._place, "", *headings.values())
        for (number, case), cells in self._cells.items():
            if set(cells) == set(headings):
                table.row(number, case, *(cells[column] for column in headings))
        table.check(whole)


FAULTS = Table("faults.md", "matrix", "what breaks", "what the caller sees", "refreshes that Keycloak acted on", "the session")
row, check = FAULTS.row, FAULTS.check
