"""Whether a new model (challenger) may replace the one that serves (champion).

Pure rules and sums: no models, no files. Both answered the same held-out photos, and only the
photos on which they differ count: the challenger alone is right on the `gained` ones, the champion
alone on the `lost` ones. McNemar's exact test gives the probability of counts this one-sided if
both were equally good. The bootstrap instead compares the mean recall of the classes, in which a
class of few photos counts as much as one of many.

Where photos share groups, such as an object or a shop, they are gained and lost together: McNemar's
test then flips the signs of whole groups, and the interval of the mean recall leaves out one group
at a time (`training/evaluation/clusters.py`).

Sources: McNemar 1947; Efron & Tibshirani 1993, chapter 13 (percentile intervals of paired data).
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from flows.release_gate.paired import Paired, paired


class Rules(BaseModel):
    """What a model must reach to be released."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    test: Literal["mcnemar", "bootstrap"] = Field(
        "mcnemar", description="mcnemar compares top-1; bootstrap the mean recall of the classes."
    )
    alpha: float = Field(
        0.05, gt=0, lt=0.5, description="Largest chance of a release that is no better, one-sided."
    )
    max_recall_drop: float = Field(
        0.15, gt=0, le=1, description="A class that loses more recall than this holds the release."
    )
    min_photos_lost: int = Field(
        2, ge=1, description="Fewer photos than this are no collapse, however small the class."
    )
    min_new_recall: float = Field(
        0.3, ge=0, le=1, description="Recall that each class new to the model must reach."
    )
    min_top1: float = Field(
        0.0, ge=0, le=1, description="Top-1 on the held-out photos that every release must reach."
    )
    max_slowdown: float = Field(
        1.5,
        gt=1,
        description="Times the champion's time per photo; for other image sizes, per pixel.",
    )
    max_ms: float | None = Field(
        None, gt=0, description="Milliseconds that one photo may take alone, if there is a limit."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassRow:
    """One class on the held-out photos; recalls are fractions, None where there is none."""

    label: str
    photos: int
    champion: float | None
    challenger: float | None
    gained: int
    lost: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the rules decided, and the numbers behind it."""

    promote: bool
    reason: str
    case: Literal["first release", "same classes", "changed classes"]
    photos: int
    """Held-out photos that both were asked; all of them in a first release."""
    challenger_top1: float
    champion_top1: float | None
    gained: int
    lost: int
    p_value: float | None
    """Chance of as many gains or more, were both equally good (McNemar, exact, one-sided; by group
    where photos share groups)."""
    groups: int
    """Groups that photos share and that the test counts; 0 where no two photos share one."""
    recall_difference: float | None
    """Challenger's mean recall less the champion's, over the classes that both know."""
    recall_interval: tuple[float, float] | None
    """Its two-sided interval of 1 - 2·alpha: the lower end is the one-sided bound."""
    added: tuple[str, ...]
    """Classes that only the challenger knows."""
    removed: tuple[str, ...]
    """Classes that only the champion knows."""
    classes: tuple[ClassRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


def judge(
    truth: Sequence[str],
    challenger: Sequence[str],
    champion: Sequence[str] | None,
    *,
    labels: Sequence[str],
    champion_labels: Sequence[str] = (),
    groups: Sequence[str] = (),
    same_weights: bool = False,
    rules: Rules | None = None,
) -> Verdict:
    """Decide by the answers of both models to the same photos.

    Args:
        truth: The label of each photo.
        challenger: What the new model answered, photo by photo.
        champion: What the serving model answered; None if nothing serves.
        labels: The classes of the new model.
        champion_labels: The classes of the serving one.
        groups: What each photo shares with others; empty where that is not known.
        same_weights: Whether both are the same epoch of the same run, in two precisions or with
            two thresholds.
        rules: What a release must reach; the defaults if None.
    """
    rules = rules or Rules()
    right = np.array([t == c for t, c in zip(truth, challenger, strict=True)], bool)
    known = set(labels) & set(champion_labels)
    shared = np.array([t in known for t in truth], bool)
    if champion is None or not shared.any():
        return _first(truth, right, labels, champion_labels if champion is not None else (), rules)
    before = np.array([t == c for t, c in zip(truth, champion, strict=True)], bool)
    rows = _rows(labels, truth, right, before, known)
    both = [row for row in rows if row.label in known and row.photos]
    found = paired(
        np.array(truth)[shared].tolist(), right[shared], before[shared],
        np.array(groups)[shared].tolist() if len(groups) else (), rules.alpha,
    )  # fmt: skip
    added = tuple(label for label in labels if label not in known)
    removed = tuple(label for label in champion_labels if label not in known)
    exempt = _exempt(bool(added or removed), same_weights)
    passes, grounds = _compared(rules, found, exempt)
    refusals = [
        *([] if passes else [grounds]),
        *_too_low(float(right.mean()), rules),
        *_collapsed(both, rules),
        *_not_learnt([row for row in rows if row.label in added], rules),
    ]
    return Verdict(
        promote=not refusals,
        reason="; ".join(refusals) or grounds,
        case="changed classes" if added or removed else "same classes",
        photos=int(shared.sum()),
        challenger_top1=float(right[shared].mean()),
        champion_top1=float(before[shared].mean()),
        gained=found.gained, lost=found.lost, p_value=found.p_better, groups=found.groups,
        recall_difference=found.recall, recall_interval=found.interval,
        added=added, removed=removed, classes=rows,
    )  # fmt: skip


def _first(
    truth: Sequence[str],
    right: NDArray[np.bool_],
    labels: Sequence[str],
    removed: Sequence[str],
    rules: Rules,
) -> Verdict:
    top1 = float(right.mean())
    refusals = _too_low(top1, rules)
    nothing = "no class is shared with what serves" if removed else "nothing serves yet"
    return Verdict(
        promote=not refusals,
        reason="; ".join(refusals) or f"first release: {nothing}, so there is nothing to beat",
        case="first release",
        photos=len(truth),
        challenger_top1=top1,
        champion_top1=None,
        gained=0,
        lost=0,
        p_value=None,
        groups=0,
        recall_difference=None,
        recall_interval=None,
        added=tuple(labels),
        removed=tuple(removed),
        classes=_rows(labels, truth, right, right, ()),
    )


def _exempt(changed: bool, same_weights: bool) -> str:
    """Return why a challenger need not be better, only no worse; an empty string if it must."""
    if changed:
        # The class list is a person's decision.
        return "the class list changed"
    return "the same weights, in another precision or threshold" if same_weights else ""


def _compared(rules: Rules, found: Paired, exempt: str) -> tuple[bool, str]:
    """Return whether the comparison allows a release, and the sentence that says why.

    A challenger must be better, unless `exempt` says why being no worse is enough.
    """
    gained, lost = found.gained, found.lost
    if exempt:
        if found.p_worse < rules.alpha:
            return False, f"worse on the classes that both know (-{lost} +{gained} photos)"
        return True, f"{exempt}, and what both know is no worse (+{gained} -{lost})"
    if rules.test == "mcnemar":
        passes = found.p_better < rules.alpha
        grounds = (
            f"+{gained} -{lost} photos, p {found.p_better:.3g} (McNemar{found.over},"
            f" {'' if passes else 'not '}below {rules.alpha:g})"
        )
    else:
        low, high = found.interval
        # Written so that NaN fails.
        passes = low > 0
        how = f"jackknife{found.over}" if found.groups else "bootstrap"
        grounds = f"mean recall {found.recall:+.2%} ({low:+.2%} to {high:+.2%}, {how})"
    return passes, f"{'better' if passes else 'not better beyond chance'}: {grounds}"


def _too_low(top1: float, rules: Rules) -> list[str]:
    if top1 >= rules.min_top1:
        return []
    return [f"top-1 is {top1:.2%}, and {rules.min_top1:.2%} are asked for"]


def _collapsed(rows: Sequence[ClassRow], rules: Rules) -> list[str]:
    found = []
    for row in rows:
        drop = (row.champion or 0) - (row.challenger or 0)
        # The tolerance keeps a drop of exactly the limit from failing by rounding.
        if drop > rules.max_recall_drop + 1e-9 and row.lost - row.gained >= rules.min_photos_lost:
            found.append(
                f"class {row.label!r} collapses: recall {row.champion:.1%} to {row.challenger:.1%}"
            )
    return found


def _not_learnt(rows: Sequence[ClassRow], rules: Rules) -> list[str]:
    return [
        f"new class {row.label!r} is not learnt: recall {row.challenger:.1%}"
        for row in rows
        if row.challenger is not None and row.challenger < rules.min_new_recall
    ]


def _rows(
    labels: Sequence[str],
    truth: Sequence[str],
    right: NDArray[np.bool_],
    before: NDArray[np.bool_],
    known: Collection[str],
) -> tuple[ClassRow, ...]:
    """Return a row for each class; photos are counted once, however many classes there are."""
    number = {label: index for index, label in enumerate(labels)}
    # Photos of classes that the new model has not are counted last, and left out.
    of_class = np.array([number.get(label, len(labels)) for label in truth], np.int64)

    def count(chosen: NDArray[np.bool_]) -> list[int]:
        counted = np.bincount(of_class[chosen], minlength=len(labels) + 1)
        return [int(found) for found in counted[: len(labels)]]

    photos, mine, theirs = count(np.ones(len(right), bool)), count(right), count(before)
    gained, lost = count(right & ~before), count(before & ~right)
    return tuple(
        ClassRow(
            label=label,
            photos=photos[at],
            champion=theirs[at] / photos[at] if photos[at] and label in known else None,
            challenger=mine[at] / photos[at] if photos[at] else None,
            gained=gained[at] if label in known else 0,
            lost=lost[at] if label in known else 0,
        )
        for at, label in enumerate(labels)
    )
