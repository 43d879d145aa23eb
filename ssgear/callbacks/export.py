"""The callback that writes the encoder at a run's end."""

from __future__ import annotations

from ssgear.engine.callbacks import Callback, Reason
from ssgear.engine.run import Run
from ssgear.models.encoders import save_encoder


class Export(Callback):
    """At the end: `encoder.safetensors` and `encoder.json`."""

    def on_end(self, run: Run, reason: Reason) -> None:
        """Write the encoder, averaged weights where an average is kept."""
        with run.export_weights():
            if run.world.is_main:
                spec = run.plan.specs[0]
                save_encoder(run.method.encoder, run.directory, mean=spec.mean, std=spec.std)
