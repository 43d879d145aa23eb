"""Folders of published models: which there are, whether they can be used, what tells them apart.

    folder = find_pipeline("--model", name, ("StableDiffusionPipeline",))

A folder is used as it lies; another name is looked for on the Hugging Face hub (or in its cache).
Weights are read from safetensors only, since loading a pickle may run code. A digest is blake2b of
the whole of every file that is used (about a second for each gigabyte), so that a store says for
sure whether it was made by the same model.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ssgear.errors import (
    CheckpointError,
    ConfigError,
    MissingDependencyError,
    first_line,
    refusing,
)
from ssgear.storage.store_marker import digest_of_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INDEX = "model_index.json"
IGNORED = frozenset({"safety_checker"})
"""Parts of a pipeline that are not loaded."""
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_WANTED = ["*.json", "*.txt", "*.model", "*/*.safetensors", "model*.safetensors"]
"""What is fetched from the hub: a pipeline's own files, not copies of all of it in one file."""
_UNWANTED = ["safety_checker/*", "*.fp16.*", "*.non_ema.*"]


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder that holds a model."""

    path: Path
    """Where it lies."""
    kind: str
    """Class that its index or configuration names."""
    index: dict[str, object]
    """The index or configuration."""
    files: tuple[Path, ...]
    """What of it is used."""
    variant: str | None = None
    """`fp16` where the weights are called so."""

    def digest(self) -> str:
        """Return one digest of all files that are used, with their names."""
        whole = hashlib.blake2b(digest_size=16)
        for file in self.files:
            name = file.relative_to(self.path).as_posix()
            whole.update(f"{name}\0{digest_of_file(file)}\0".encode())
        return whole.hexdigest()


def need(module: str, option: str) -> ModuleType:
    """Import a package of the extra `generate`, or say what to install."""
    name = module.partition(".")[0]
    with refusing(
        ImportError,
        lambda error: MissingDependencyError(
            f"{option}: {name} cannot be imported ({first_line(error)}); install it with "
            'pip install "ssgear[generate]"'
        ),
    ):
        return importlib.import_module(module)


def quiet(*libraries: ModuleType) -> None:
    """Keep diffusers or transformers from drawing bars of their own and from advice."""
    for library in libraries:
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def find_pipeline(option: str, name: str | None, kinds: Sequence[str]) -> Folder:
    """Return the folder of a pipeline in diffusers' layout, of one of these classes.

    Raises:
        SsgearError: there is none, or it holds something else, or pickles.
    """
    expected = f"a folder with {INDEX} of {' or '.join(kinds)}"
    path = _place(option, name, expected)
    index = _json(option, path, INDEX, expected)
    kind = str(index.get("_class_name"))
    if kind not in kinds:
        raise CheckpointError(
            f"{option}: {path} holds a {kind} ({INDEX}); expected {' or '.join(kinds)}"
        )
    parts = [
        key
        for key, value in index.items()
        if isinstance(value, list) and value[:1] not in ([], [None]) and key not in IGNORED
    ]
    missing = [part for part in parts if not (path / part).is_dir()]
    if missing:
        raise CheckpointError(f"{option}: {path} has no folder {missing[0]}, which {INDEX} names")
    weights = [file for part in parts for file in _weights(option, path / part)]
    if not weights:
        raise CheckpointError(f"{option}: {path} has no weights in safetensors, {', '.join(parts)}")
    variant = "fp16" if all(".fp16." in file.name for file in weights) else None
    if variant is None:
        weights = [file for file in weights if ".fp16." not in file.name]
    small = [file for part in parts for file in _small(path / part)]
    files = tuple(sorted((*weights, *small)))
    return Folder(path=path, kind=kind, index=index, files=files, variant=variant)


def find_transformer(option: str, name: str | None, kind: str) -> Folder:
    """Return the folder of a model of transformers, whose config.json is of this `model_type`.

    Raises:
        SsgearError: there is none, or it holds something else, or pickles.
    """
    expected = f"a folder with config.json of a {kind} model"
    path = _place(option, name, expected)
    config = _json(option, path, "config.json", expected)
    found = config.get("model_type")
    if found != kind:
        raise CheckpointError(
            f"{option}: {path} holds a model of type {found} (config.json); expected {kind}"
        )
    weights = _weights(option, path)
    if not weights:
        raise CheckpointError(f"{option}: {path} has no weights; expected *.safetensors")
    return Folder(path=path, kind=kind, index=config, files=(*weights, *_small(path)))


def _place(option: str, name: str | None, expected: str) -> Path:
    if name is None:
        raise ConfigError(f"{option}: name {expected}, or a name on the Hugging Face hub")
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise CheckpointError(f"{option}: {path} is a file; expected {expected}")
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise CheckpointError(f"{option}: {path}: there is no such folder; expected {expected}")
    hub = need("huggingface_hub", option)
    with refusing(
        Exception,  # the hub's own errors are many, and of several packages
        lambda error: CheckpointError(
            f"{option}: {name} is no folder here, and the Hugging Face hub could not give it "
            f"({type(error).__name__}: {first_line(error)}); name {expected}"
        ),
    ):
        return Path(hub.snapshot_download(name, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))


def _json(option: str, path: Path, name: str, expected: str) -> dict[str, object]:
    file = path / name
    if path.is_dir() and not file.exists():
        names = sorted(file.name for file in path.iterdir())
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") or "nothing"
        raise CheckpointError(f"{option}: {path} holds {shown}; expected {expected}")
    with refusing(
        (OSError, ValueError),
        lambda error: CheckpointError(f"{option}: {file} cannot be read: {first_line(error)}"),
    ):
        fields = json.loads(file.read_text("utf-8"))
    if not isinstance(fields, dict):
        raise CheckpointError(f"{option}: {file} holds no object; expected {expected}")
    return fields


def _weights(option: str, folder: Path) -> list[Path]:
    found = sorted(f for f in folder.glob("*.safetensors") if ".non_ema." not in f.name)
    pickles = sorted(file for kind in _PICKLES for file in folder.glob(kind))
    if pickles and not found:
        raise CheckpointError(
            f"{option}: {pickles[0]} is a pickle, which may run code when it is read; convert the "
            "weights to safetensors"
        )
    return found


def _small(folder: Path) -> Iterator[Path]:
    for kind in ("*.json", "*.txt", "*.model"):
        yield from sorted(folder.glob(kind))


def check_words(option: str, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer without a word: libraries make one where its files are not there."""
    words = set(tokenizer.get_vocab().values())
    if not words - set(tokenizer.all_special_ids):
        raise CheckpointError(
            f"{option}: the tokenizer of {folder} knows no word; its files (tokenizer.json, or "
            "vocab.json and merges.txt, or vocab.txt) are missing or empty"
        )


def loading(option: str, folder: Path) -> AbstractContextManager[None]:
    """Refuse a folder that looked right where a library cannot read it within the block."""
    return refusing(
        (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError),
        lambda error: CheckpointError(
            f"{option}: {folder} cannot be loaded ({type(error).__name__}: {first_line(error)}); "
            "is it complete?"
        ),
    )
