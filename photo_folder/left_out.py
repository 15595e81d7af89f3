"""What was left out of a folder, counted, and said in two lines."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from photo_folder.names import Kind, advice_for, junk, printable

_SYSTEM = (Kind.JUNK, Kind.HIDDEN)
_NAMED = (Kind.UNREADABLE, Kind.EMPTY)
"""Told one by one: each of them may be a class."""

_MOST_NAMES, _MOST_SUFFIXES, _KEPT = 4, 6, 1000

_WORDS = {
    Kind.LOOSE: ("photo that lies beside class folders", "photos that lie beside class folders"),
    Kind.ASIDE: ("photo beside the splits", "photos beside the splits"),
    Kind.UNLABELLED: ("photo without a label", "photos without a label"),
    Kind.REPEATED: ("row that repeats another", "rows that repeat others"),
    Kind.BROKEN_LINK: ("broken link", "broken links"),
    Kind.LOOP: ("link into a loop", "links into a loop"),
    Kind.SPECIAL: ("pipe or device", "pipes or devices"),
    Kind.NO_SUFFIX: ("file without a suffix", "files without a suffix"),
}


@dataclass(slots=True)
class LeftOut:
    """Counts by kind and suffix, with an example each. Its size does not grow with the folder."""

    _counts: Counter[tuple[Kind, str]] = field(default_factory=Counter)
    _example: dict[tuple[Kind, str], str] = field(default_factory=dict)
    _names: dict[Kind, list[tuple[str, str]]] = field(
        default_factory=lambda: {kind: [] for kind in _NAMED}
    )

    def add(self, name: str, kind: Kind, detail: str = "") -> None:
        """Count something by its path below the folder; `detail` is its suffix, or a reason."""
        if kind in self._names and len(self._names[kind]) < _KEPT:
            self._names[kind].append((printable(name), printable(detail)))
        if kind is Kind.JUNK:
            # A virtual environment has any name.
            detail = junk(name) or name.rsplit("/", 1)[-1]
        elif kind not in (Kind.PICTURE, Kind.OTHER):
            detail = ""
        self._counts[kind, printable(detail)] += 1
        self._example.setdefault((kind, printable(detail)), printable(name))

    def count(self, *kinds: Kind) -> int:
        """Return how many are of these kinds; none named is all that people put there."""
        wanted = kinds or tuple(kind for kind in Kind if kind not in _SYSTEM)
        return sum(count for (kind, _), count in self._counts.items() if kind in wanted)

    def join(self, other: "LeftOut") -> None:
        """Count what another one counted."""
        self._counts += other._counts
        self._example = {**other._example, **self._example}
        for kind, names in other._names.items():
            self._names[kind] += names[: _KEPT - len(self._names[kind])]

    def lines(self) -> list[str]:
        """Return at most two lines: what a person may miss, and what a system put there."""
        told = [phrase for phrase in (
            self._named(Kind.UNREADABLE, "cannot be read: "),
            self._pictures(),
            *(self._counted(kind) for kind in _WORDS),
            self._named(Kind.EMPTY, "no photos in "),
            self._by_suffix(Kind.OTHER),
        ) if phrase]  # fmt: skip
        lines = [f"left out: {'; '.join(told)}"] if told else []
        junk = [f"{f'{count} × ' if count > 1 else ''}{detail}"
                for (kind, detail), count in self._sorted(Kind.JUNK)]  # fmt: skip
        if hidden := self.count(Kind.HIDDEN):
            junk.append(f"{hidden} hidden (such as {self._example[Kind.HIDDEN, '']})")
        if junk:
            more = f" and {len(junk) - 8} more kinds" if len(junk) > 8 else ""
            lines.append(f"skipped, left by a system: {', '.join(junk[:8])}{more}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return counts and examples, ready for JSON."""
        counts = [
            {"kind": str(kind), "what": detail, "count": count,
             "example": self._example[kind, detail]}
            for (kind, detail), count in sorted(self._counts.items())
        ]  # fmt: skip
        return {
            "lines": self.lines(),
            "counts": counts,
            "unreadable": dict(self._names[Kind.UNREADABLE]),
        }

    def _sorted(self, kind: Kind) -> list[tuple[tuple[Kind, str], int]]:
        return [item for item in self._counts.most_common() if item[0][0] is kind]

    def _counted(self, kind: Kind) -> str:
        count = self._counts[kind, ""]
        one, many = _WORDS[kind]
        example = self._example.get((kind, ""))
        return f"{count} {one if count == 1 else many} ({example})" if count else ""

    def _pictures(self) -> str:
        shown = self._by_suffix(Kind.PICTURE)
        if not shown:
            return ""
        (_, commonest), _ = self._sorted(Kind.PICTURE)[0]
        return f"{shown}, not read here: {advice_for(commonest)}"

    def _by_suffix(self, kind: Kind) -> str:
        found = self._sorted(kind)
        if not found:
            return ""
        shown = ", ".join(
            f"{count} {suffix} ({self._example[kind, suffix]})"
            for (_, suffix), count in found[:_MOST_SUFFIXES]
        )
        rest = sum(count for _, count in found[_MOST_SUFFIXES:])
        return f"{shown}{f', {rest} of other kinds' if rest else ''}"

    def _named(self, kind: Kind, words: str) -> str:
        names = self._names[kind][:_MOST_NAMES]
        if not names:
            return ""
        more = self._counts[kind, ""] - len(names)
        shown = ", ".join(f"{name} ({why})" if why else name for name, why in names)
        return f"{words}{shown}{f' and {more} more' if more else ''}"
