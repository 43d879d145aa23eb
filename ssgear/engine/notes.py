"""What a user should know of a run before its first step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ssgear.engine.checks import has_batch_norm
from ssgear.engine.run import Run


def tell_user(run: Run, reason: str, notes: Sequence[str]) -> None:
    """Print why the run has its loader, and log what the images, ds.json and settings call for."""
    log = run.log
    log.say(f"{run.loader.name} loader: {reason}")
    for source in (*run.sources, *([run.test] if run.test else [])):
        for note in source.notes:
            log.say(note)
        for bad in source.bad:
            log.note(run.step, f"skipped {bad.where}: {bad.reason}")
    lost = len(run.loader.lost.reasons) if run.loader.lost else 0
    if lost:
        log.say(f"{lost} images were lost before this step; others stand in for them")
    for note in (*notes, *_notes_on_settings(run)):
        log.note(run.step, note)


def _notes_on_settings(run: Run) -> Iterator[str]:
    config, world = run.config, run.world
    share = config.data.synthetic_share * config.optim.batch_size
    if run.synthetic is not None and share > len(run.synthetic):
        yield (
            f"{len(run.synthetic)} synthetic images are fewer than the {share:g} of a batch: it "
            "holds copies of an image, which a contrastive loss takes for different ones"
        )
    if config.optim.warmup_epochs >= config.optim.epochs:
        yield (
            f"--optim.warmup-epochs {config.optim.warmup_epochs:g} spans all --optim.epochs "
            f"{config.optim.epochs}: the learning rate never reaches --optim.lr"
        )
    if not has_batch_norm(run.method):
        return
    if world.size > 1 and run.device.type == "cpu":
        yield (
            "PyTorch has no synchronised batch norm on CPUs: every rank keeps its own statistics "
            "(--model.norm group has none)"
        )
    micro = config.optim.micro_batch
    if micro and micro < config.optim.batch_size // world.size:
        yield f"gradient caching: batch norm sees {micro} images at a time, not the whole batch"
