"""Sets of times as sorted, disjoint spans `[begin, end)` in ms since 1970."""

from collections.abc import Iterable, Sequence

Span = tuple[int, int]


def union(spans: Iterable[Span]) -> list[Span]:
    """All times that one of the spans has."""
    merged: list[Span] = []
    for begin, end in sorted(span for span in spans if span[0] < span[1]):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, end))
    return merged


def missing(wanted: Span, there: Sequence[Span]) -> list[Span]:
    """The times of a span that the others, sorted and disjoint, do not have."""
    found = []
    begin, end = wanted
    for first, last in there:
        if last <= begin:
            continue
        if first >= end:
            break
        if begin < first:
            found.append((begin, first))
        begin = max(begin, last)
    if begin < end:
        found.append((begin, end))
    return found
