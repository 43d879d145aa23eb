"""What every training method is: the names that a method's file imports.

`contract.py` has `Method` and says what is called when, `steps.py` what a step walks over,
`card.py` what people are told of a method; `pretext.py` and `generator.py` have what only some
methods have.
"""

from ssgear.methods.base.card import Card, Colouring, Figure, LabelledSplits, Maps, OwnProtocol
from ssgear.methods.base.contract import (
    Extract,
    Method,
    Needs,
    check_groups,
    trains_encoder,
    views_seen,
)
from ssgear.methods.base.generator import CriticGame, GeneratorSide, PairedWith
from ssgear.methods.base.pretext import Facts, Pretext
from ssgear.methods.base.steps import (
    Embeddings,
    Group,
    LossTerms,
    OptimizerSpec,
    Phase,
    one_phase,
    steps_of,
)

__all__ = [
    "Card", "Colouring", "CriticGame", "Embeddings", "Extract", "Facts", "Figure",
    "GeneratorSide", "Group", "LabelledSplits", "LossTerms", "Maps", "Method", "Needs",
    "OptimizerSpec", "OwnProtocol", "PairedWith", "Phase", "Pretext", "check_groups", "one_phase",
    "steps_of", "trains_encoder", "views_seen",
]  # fmt: skip
