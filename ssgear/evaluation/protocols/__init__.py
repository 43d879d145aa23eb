"""What `evaluate --protocol` can ask for: a function for each protocol, registered by name.

A protocol takes a `Subject` (encoder, features, images, labels) and returns an `Outcome`: figures
with their intervals, notes, and what a page shows beside them. A function under
`@protocol("name")` in a module that is named here is listed by the command.
"""

from ssgear.evaluation.protocols import blocks, compared, generated, labelled, pictured
from ssgear.evaluation.protocols.registry import Protocol, find, protocol

__all__ = [
    "Protocol",
    "blocks",
    "compared",
    "find",
    "generated",
    "labelled",
    "pictured",
    "protocol",
]
