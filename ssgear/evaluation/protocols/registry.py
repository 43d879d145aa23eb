"""Protocols by name, and what each needs.

    @protocol("linear", needs=labels_of)
    def linear(subject: Subject) -> Outcome: ...

What a protocol needs is checked before the first of several protocols computes anything. Protocols
that a method brings with it stand on its card.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ssgear import registry
from ssgear.errors import ConfigError, did_you_mean
from ssgear.evaluation.results import Measure, Outcome
from ssgear.evaluation.subject import Subject
from ssgear.methods.base import OwnProtocol

Function = Callable[[Subject], Outcome]
Need = Callable[[Subject], object]
"""Raises what is missing; computes nothing."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A way to measure a subject."""

    name: str
    measure: Function
    check: Need
    """Raises what `measure` would raise of a subject that lacks something."""
    reads_features: bool = True
    """Whether it reads the features of both splits."""


_PROTOCOLS: dict[str, Protocol] = {}


def protocol(
    name: str, *, needs: Need = lambda _: None, reads_features: bool = True
) -> Callable[[Function], Function]:
    """Register a protocol under a name, with what finds out whether a subject has all of it."""

    def register(function: Function) -> Function:
        _PROTOCOLS[name] = Protocol(
            name=name, measure=function, check=needs, reads_features=reads_features
        )
        return function

    return register


def names() -> tuple[str, ...]:
    """Return the names of all protocols of this room."""
    return tuple(_PROTOCOLS)


def labels_of(subject: Subject) -> object:
    """Need labels of both splits."""
    return subject.labels


def find(name: str, own: Sequence[OwnProtocol] = ()) -> Protocol:
    """Return a protocol, one of `own` or of the methods' cards too, or say which there are."""
    if name in _PROTOCOLS:
        return _PROTOCOLS[name]
    brought = {entry.name: entry for entry in (*_of_methods(), *own)}
    if name not in brought:
        known = (*_PROTOCOLS, *brought)
        near = did_you_mean(name, known)
        raise ConfigError(f"--protocol: unknown protocol {name!r}{near}; known: {', '.join(known)}")
    return _own_protocol(brought[name])


def _own_protocol(entry: OwnProtocol) -> Protocol:
    def measure(subject: Subject) -> Outcome:
        data = subject.data
        figures = entry.measure(subject.encode, data.labelled_splits)
        num_train, num_test = len(data.train_images), len(data.test_images)
        measures = {
            name: Measure(value=value, num_train=num_train, num_test=num_test)
            for name, value in figures.items()
        }
        return Outcome(measures=measures)

    return Protocol(name=entry.name, measure=measure, check=labels_of, reads_features=False)


def _of_methods() -> Iterator[OwnProtocol]:
    for name in registry.names("methods"):
        yield from registry.load("methods", name).card.protocols
