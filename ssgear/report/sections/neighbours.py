"""Queries with the images nearest to them: neighbours of test images, and retrieval examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ssgear.report.contents import Neighbours, Pixels, Retrieval
from ssgear.report.images import Picture, picture
from ssgear.report.pictures import interval_text, percent

MAX_QUERIES = 10
"""Test images whose neighbours are shown."""
MAX_NEIGHBOURS = 10
"""Neighbours of one image."""
MAX_EXAMPLES = 4
"""Retrieval examples of each kind."""
MAX_RETRIEVED = 8
"""Images that are shown of what a query retrieves."""
KINDS = {"best": "Best", "typical": "Typical", "worst": "Worst"}


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """A training image near a query."""

    picture: Picture
    name: str
    """Of its class, where classes are known."""
    right: bool | None
    """Whether that is the query's."""
    similarity: str


@dataclass(frozen=True, kw_only=True)
class Query:
    """A test image and its neighbours."""

    picture: Picture
    name: str
    near: list[Neighbour]
    precision: str = ""
    """Average precision, where the query has one."""

    @property
    def hits(self) -> int:
        """Return how many neighbours are of the query's class."""
        return sum(1 for neighbour in self.near if neighbour.right)


@dataclass(frozen=True, kw_only=True)
class NeighbourRows:
    """Queries, and how often their neighbours are of the same class."""

    rows: list[Query]
    known: bool
    """Whether classes are."""
    hits: int
    total: int
    share: str
    """Of those shown."""
    measure: str
    overall: str
    """Share over all test images; empty where it was not measured."""
    num_queries: int | None
    num_neighbours: int


def neighbours(contents: Neighbours | None) -> NeighbourRows | None:
    """Queries with their nearest neighbours, each marked right or wrong where classes are known."""
    if contents is None or not len(contents.queries):
        return None
    labels, others = contents.query_labels, contents.neighbour_labels
    rows = [
        _query(
            contents.queries[row],
            contents.neighbours[row][:MAX_NEIGHBOURS],
            contents.similarities[row],
            "" if labels is None else str(labels[row]),
            None if labels is None or others is None else others[row],
        )
        for row in range(min(len(contents.queries), MAX_QUERIES))
    ]
    total, hits = sum(len(row.near) for row in rows), sum(row.hits for row in rows)
    return NeighbourRows(
        rows=rows,
        known=labels is not None and others is not None,
        hits=hits,
        total=total,
        share=percent(hits / max(1, total)),
        measure=contents.measure,
        overall="" if contents.overall is None else percent(contents.overall),
        num_queries=contents.num_queries,
        num_neighbours=contents.neighbours.shape[1],
    )


def _query(
    query: Pixels,
    images: Pixels,
    similarities: Sequence[float],
    name: str,
    names: Sequence[str] | None,
    precision: str = "",
) -> Query:
    near = [
        Neighbour(
            picture=picture(image),
            name="" if names is None else str(names[place]),
            right=None if names is None else str(names[place]) == name,
            similarity=f"{similarities[place]:.2f}",
        )
        for place, image in enumerate(images)
    ]
    return Query(picture=picture(query), name=name, near=near, precision=precision)


@dataclass(frozen=True, kw_only=True)
class RetrievalPart:
    """Retrieval over all queries, and examples by kind."""

    mean_average_precision: str
    interval: str
    num_queries: int
    rule: str
    by_k: list[tuple[int, str, str, str]]
    """k, and precision, recall and hits among the first k."""
    has_hits: bool
    examples: list[tuple[str, list[Query]]]
    """Kind and queries."""


def retrieval(contents: Retrieval | None) -> RetrievalPart | None:
    """Lay out retrieval; None where there is no query."""
    if contents is None or not contents.num_queries:
        return None
    rows = range(len(contents.queries))
    places = {kind: [row for row in rows if contents.kinds[row] == kind] for kind in KINDS}
    shares = (contents.precision_at, contents.recall_at, contents.hit_at)
    ks = sorted({k for by_k in shares for k in by_k})
    return RetrievalPart(
        mean_average_precision=percent(contents.mean_average_precision),
        interval=interval_text(contents.interval),
        num_queries=contents.num_queries,
        rule=contents.rule,
        by_k=[(k, _at(shares[0], k), _at(shares[1], k), _at(shares[2], k)) for k in ks],
        has_hits=bool(contents.hit_at),
        examples=[
            (title, [_example(contents, row) for row in places[kind][:MAX_EXAMPLES]])
            for kind, title in KINDS.items()
            if places[kind]
        ],
    )


def _at(shares: Mapping[int, float], k: int) -> str:
    return percent(shares[k]) if k in shares else ""


def _example(contents: Retrieval, row: int) -> Query:
    return _query(
        contents.queries[row],
        contents.neighbours[row][:MAX_RETRIEVED],
        contents.similarities[row],
        str(contents.query_labels[row]),
        contents.neighbour_labels[row],
        percent(contents.average_precisions[row]),
    )
