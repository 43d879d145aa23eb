"""The one loop: a step walks over the phases, callbacks watch, checkpoints are saved.

It knows methods through `methods.base`, ranks and engines through `Runtime`. Nothing in a step
waits for the device on a GPU; losses are read where a line is logged, and a gradient that is not
finite ends the run there.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator, Sequence
from types import FrameType

import torch
from torch import Tensor

from ssgear.data.loaders.batch import Batch
from ssgear.data.sources import load_images
from ssgear.data.sources.loading import GREY
from ssgear.distributed import is_lost_rank
from ssgear.engine.callbacks import Callback, Reason, unchanged
from ssgear.engine.isolate import only
from ssgear.engine.passes import forward_backward
from ssgear.engine.run import Run
from ssgear.engine.saving import load_checkpoint, save_checkpoint
from ssgear.errors import Interrupted, SsgearError, TrainingError
from ssgear.methods.base import LossTerms, Phase, check_groups, steps_of
from ssgear.optim import Ema
from ssgear.storage.checkpoint import find_latest, last_saved


class Stopped(SsgearError):
    """A signal asked the run to stop; it was saved first."""

    def __init__(self, message: str, number: int) -> None:
        """Exit as the shell expects of a process ended by signal `number`."""
        super().__init__(message)
        self.exit_status = 128 + number


class Trainer:
    """Trains a `Run` to its end, from wherever it stands."""

    def __init__(self, run: Run, callbacks: Sequence[Callback]) -> None:
        """Take a run that is built but not started."""
        check_groups(run.method)
        self.run_state = run
        self.callbacks = tuple(callbacks)
        self._signal: int | None = None
        self._skipped: dict[str, int] = {}  # steps in a row by phase
        self._finite = torch.ones((), dtype=torch.bool, device=run.device)
        groups = run.runtime.groups
        self._encoder_groups = {name for name in groups if groups[name].trains(run.method.encoder)}
        for phase in run.method.phases:
            group = groups[phase.group]
            decay = phase.ema or (phase.group in self._encoder_groups and run.config.optim.ema)
            if decay:
                run.averages[phase.group] = Ema(group, decay)

    def run(self) -> None:
        """Train until the end, a signal or an error; callbacks hear of each."""
        run = self.run_state
        if run.resumed:
            load_checkpoint(run, self.callbacks, find_latest(run.directory))
        handlers = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
            if signal.getsignal(number) is not signal.SIG_IGN  # nohup has the last word
        }
        reason: Reason = "failed"
        try:
            self._call("on_start")
            for _ in self.steps():
                self._after_step()
            reason = "finished"
        except Stopped:
            reason = "stopped"
            raise
        except RuntimeError as error:
            if run.world.size > 1 and is_lost_rank(error):
                raise run.world.lost(error) from error
            raise
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            if reason != "failed":
                self._call("on_end", reason)
            run.log.close()

    def steps(self) -> Iterator[int]:
        """Take the run's steps from where it stands to its last, and yield the number of each.

        Between two of them the caller does what it likes; nothing is logged or saved here.
        """
        run = self.run_state
        last = self.last_step
        run.method.train()
        while run.step < last:
            epoch, first = divmod(run.step, run.steps_per_epoch)
            if first == 0:
                run.method.before_epoch(run.step / run.total_steps, self._extract)
            batches = run.loader.epoch(epoch, first, self._streams)
            for _ in range(first, run.steps_per_epoch):
                self._step(batches)
                yield run.step
                if run.step >= last:
                    return

    @property
    def last_step(self) -> int:
        """Return the step at which the run ends."""
        run = self.run_state
        return min(run.total_steps, run.config.optim.max_steps or run.total_steps)

    def _streams(self, number: int) -> list[str]:
        """Name the streams of a step.

        The encoder's own, then one for each repetition after the first.
        """
        run = self.run_state
        walk = steps_of(run.method.phases, number, number / run.total_steps)
        return ["", *(f"{phase.name}.{repeat}" for phase, repeat in walk if repeat > 0)]

    def _step(self, batches: Iterator[Batch]) -> None:
        """Walk over the phases once."""
        run = self.run_state
        main = self._wait(batches)
        progress = run.step / run.total_steps
        self._terms: dict[str, LossTerms] = {}
        for phase, repeat in steps_of(run.method.phases, run.step, progress):
            batch = main if repeat == 0 else self._wait(batches)
            batch = dataclasses.replace(batch, phase=phase.name, repeat=repeat, progress=progress)
            self._terms[phase.name] = self._phase(phase, batch)
        run.step += 1
        run.images_seen += run.config.optim.batch_size
        run.meter.count(run.config.optim.batch_size)

    def _wait(self, batches: Iterator[Batch]) -> Batch:
        """Take the next batch, and count the time until the loader has it."""
        with self.run_state.meter.waiting():
            return next(batches)

    def _phase(self, phase: Phase, batch: Batch) -> LossTerms:
        """Compute a phase's loss, step its group, and let the method update its buffers."""
        run = self.run_state
        optim = run.config.optim
        warmup = int(optim.warmup_epochs * run.steps_per_epoch)
        run.runtime.schedule(phase, run.step, run.total_steps, warmup)
        with only(run.runtime.groups[phase.group], run.method.groups):
            terms = forward_backward(
                run.runtime, run.method, phase, batch, run.meter,
                micro=optim.micro_batch, trains_encoder=phase.group in self._encoder_groups,
            )  # fmt: skip
            finite = run.runtime.step(phase)
            run.meter.lap("optimizer")
        if phase.max_skipped and self._skips(phase, bool(finite)):
            return terms
        self._finite &= finite.to(self._finite.device)
        if self._finite.device.type == "cpu" and not bool(self._finite):
            self._refuse(phase.name)
        run.method.after_step(phase, terms.carry, batch.progress)
        if phase.group in run.averages:
            run.averages[phase.group].update()
        run.meter.lap("optimizer")
        return terms

    def _skips(self, phase: Phase, finite: bool) -> bool:
        """Count a step that a phase could not take; too many in a row end the run."""
        if finite:
            self._skipped.pop(phase.name, None)
            return False
        run = self.run_state
        count = self._skipped[phase.name] = self._skipped.get(phase.name, 0) + 1
        if count > phase.max_skipped:
            self._refuse(phase.name)
        run.log.note(
            run.step,
            f"the gradient of phase {phase.name!r} is not finite: step skipped, {count} in a row "
            f"(the run ends after {phase.max_skipped})",
        )
        return True

    def _refuse(self, phase: str) -> None:
        run = self.run_state
        raise TrainingError(
            f"step {run.step + 1}: the loss of phase {phase!r} or its gradient is not finite; "
            f"{last_saved(run.directory)}; try a lower --optim.lr (now {run.config.optim.lr:g}), a "
            "longer --optim.warmup-epochs or --optim.clip 1, and look at the method's own settings"
        )

    def _after_step(self) -> None:
        """Log, call back, save and look whether somebody asked to stop, in this order."""
        run, last = self.run_state, self.last_step
        ends_epoch = run.step % run.steps_per_epoch == 0
        if run.step % run.config.log.every == 0 or run.step == last:
            self._log()
        self._call("on_step")
        if ends_epoch:
            self._call("on_epoch")
        number = run.world.max_number(self._signal or 0)
        due = run.step % run.config.checkpoint.every == 0 or run.step == last
        if due or number:
            self._save()
        if number and run.step < last:
            raise Stopped(
                f"stopped at step {run.step} by {signal.Signals(number).name}; continue with: "
                f"python -m ssgear.train --resume {run.directory}",
                number,
            )

    def _log(self) -> None:
        run = self.run_state
        if not bool(self._finite):
            self._refuse(" or ".join(self._terms))
        self._tell_lost()
        pace = run.meter.read()
        with run.meter.aside():
            run.figures, run.figures_step = self._losses(), run.step
            run.meter.settle()  # reading the losses has waited for the device
            run.log.train(
                run.step,
                epoch=round(run.epoch, 4),
                images_seen=run.images_seen,
                **run.figures,
                lr=[*run.runtime.last_lr.values()][-1],  # the encoder's phase comes last
                images_per_second=round(pace.images_per_second, 2),
                data_wait=round(pace.data_wait, 4),
                seconds=round(run.meter.seconds, 2),
            )

    def _tell_lost(self) -> None:
        """Name the images that any rank has lost since this was last called; all ranks call it."""
        run = self.run_state
        lost = run.loader.lost
        if lost is None:
            return
        found = dict(each for rank in run.world.gather(lost.untold()) for each in rank)
        lost.add([*found.items()], told=True)
        for index, reason in found.items():
            run.log.note(
                run.step,
                f"skipped {lost.source.where(index)}: {reason}; another image stands in for it "
                f"({len(lost.reasons)} of {len(lost.source)} while training)",
            )

    def _losses(self) -> dict[str, float]:
        """Return the step's losses as means over ranks: `loss` is the sum over phases."""
        world = self.run_state.world
        named: dict[str, Tensor] = {}
        for phase, terms in self._terms.items():
            if len(self._terms) > 1:
                named[f"loss_{phase}"] = terms.total
            named |= {name: part.float() for name, part in terms.parts.items()}
        total = torch.stack([terms.total for terms in self._terms.values()]).sum()
        values = world.mean(torch.stack([total, *named.values()])).tolist()
        return dict(zip(["loss", *named], values, strict=True))

    def _save(self) -> None:
        if not bool(self._finite):
            self._refuse(" or ".join(self._terms))
        self._tell_lost()  # every rank's, for the checkpoint
        with self.run_state.meter.aside("saving"):
            save_checkpoint(self.run_state, self.callbacks)

    def _call(self, hook: str, *args: Reason) -> None:
        """Call a hook of every callback.

        None of them can change modes, random state or the speed shown.
        """
        run = self.run_state
        with run.meter.aside("evaluation"):
            for callback in self.callbacks:
                if getattr(type(callback), hook) is not getattr(Callback, hook):
                    with unchanged(run.method, run.device):
                        getattr(callback, hook)(run, *args)

    @torch.no_grad()
    def _extract(self) -> Tensor:
        """Return features [N, F] of every training image by the encoder as it is now."""
        run = self.run_state
        encoder = run.inference_encoder()
        with unchanged(run.method, run.device), run.export_weights():
            encoder.eval()
            parts = torch.split(torch.arange(len(run.source)), 500)
            workers = run.config.data.workers
            return torch.cat(
                [
                    encoder(
                        load_images(
                            run.source, part, run.plan.size, workers=workers, missing=GREY
                        ).to(run.device)
                    )
                    for part in parts
                ]
            )

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            raise Interrupted(number)  # asked twice: do not wait for the step
        self._signal = number
