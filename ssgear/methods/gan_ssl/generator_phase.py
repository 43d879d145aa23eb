"""The generator's phase of GAN + SSL: judged by the critic and by the encoder (docs/math.md 2).

    L_G = phi * realism + weight * L_SSL(G) + auxiliary heads + path lengths

What is carried out of a step moves phi's running mean and the averages afterwards.
Shapes: n rows of this rank, D numbers of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ssgear.data.loaders.batch import Batch
from ssgear.losses import nt_xent
from ssgear.methods.base import LossTerms
from ssgear.methods.gan_ssl import phi
from ssgear.methods.gan_ssl.parts import Synthetic
from ssgear.methods.gan_ssl.shared import Joint


class GeneratorPhase(Joint):
    """What the generator minimises, and what moves after its step."""

    phi_mean: Tensor
    phi_steps: Tensor

    def _generator_terms(self, batch: Batch) -> LossTerms:
        """Return realism as the critic sees it, and the SSL losses through the encoder."""
        config, game = self.config, self.game
        real, condition = self._real(batch)
        fake = game.synthesise(batch, condition, at=config.aux_sides)
        ssl, anchor_nD = self._ssl_of(batch, fake.images)
        terms = LossTerms(total=real.new_zeros((), dtype=torch.float32))
        share = self._add_realism(terms, batch, real, fake.images, condition, ssl)
        if ssl is not None:
            terms.parts["generator_ssl"] = ssl.detach()
            if config.generator_ssl_weight and share:
                terms.total = terms.total + config.generator_ssl_weight * share * ssl
        if anchor_nD is not None and config.aux_sides:
            auxiliary = self._auxiliary(fake, anchor_nD)
            terms.parts["auxiliary"] = auxiliary.detach()
            terms.total = terms.total + config.aux_weight * auxiliary
        path = game.path_penalty(batch, fake)
        if path is not None:
            terms.parts["path_penalty"] = path[0].detach()
            terms.carry["path_length"] = path[1]
            terms.total = terms.total + path[0]
        if fake.styles is not None:
            terms.carry["mean_style"] = fake.styles.detach()[:, 0].float().mean(dim=0)
        rows = len(batch) * self._num_ranks
        counted = torch.tensor([rows, batch.step * rows], dtype=torch.float64)
        terms.carry["rows_and_images_seen"] = counted
        return terms

    def _add_realism(
        self,
        terms: LossTerms,
        batch: Batch,
        real: Tensor,
        fake: Tensor,
        condition: Tensor | None,
        ssl: Tensor | None,
    ) -> float:
        """Add the adversarial loss times phi; return the share of the SSL weight that holds."""
        config = self.config
        weight, share = self._phi(terms, batch, ssl)
        terms.parts["phi"] = torch.as_tensor(weight, dtype=torch.float32, device=fake.device)
        if config.adversarial_weight:
            realism = self.game.realism(batch, real, fake, condition)
            terms.parts["realism"] = realism.detach()
            terms.total = terms.total + config.adversarial_weight * weight * realism
        if config.gp_phase == "both":
            terms.total = terms.total + self.game.generator_penalty(batch, fake, condition)
        return share

    def _phi(
        self, terms: LossTerms, batch: Batch, ssl: Tensor | None
    ) -> tuple[Tensor | float, float]:
        """Return phi and the share of the SSL weight; carry phi's running mean."""
        if self.config.phi_kind != "loss":
            return phi.of_curriculum(self.config, batch.progress)
        assert ssl is not None
        value = self._over_ranks(ssl.detach(), mean=True)  # every rank weighs alike
        mean = phi.moved(self.phi_mean, self.phi_steps, value)
        terms.carry["phi_mean"] = mean
        return phi.of_loss(self.config, mean, 2 * len(batch) * self._num_ranks), 1.0

    def _ssl_of(self, batch: Batch, fake: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return L_SSL(G) and, detached, what inner feature maps are compared with [n, D].

        With a condition that is the real image of the row, else the synthetic image itself.
        """
        config = self.config
        learned, measured = config.generator_ssl_weight > 0, config.phi_kind == "loss"
        if not (learned or measured or config.aux_sides):
            return None, None
        with torch.set_grad_enabled(learned):
            z_fake = self._project(batch, self._view(batch, fake, 0))
            if self.game.condition:
                with torch.no_grad():
                    z_other = self._project(batch, batch.views[0])
            elif learned:
                z_other = self._project(batch, self._view(batch, fake, 1))
            else:
                return None, z_fake.detach()
            loss = nt_xent(
                z_fake, z_other, temperature=config.temperature, group=self.process_group
            )
        return loss, (z_other if self.game.condition else z_fake).detach()

    def _auxiliary(self, fake: Synthetic, anchor_nD: Tensor) -> Tensor:
        """Return the NT-Xent losses of the heads, added up."""
        losses = []
        for side, head in self.game.heads.items():
            z_nD = head(fake.features[int(side)].mean(dim=(2, 3)))
            rows = torch.cat((z_nD.float(), anchor_nD.float()))
            tau, group = self.config.temperature, self.process_group
            losses.append(nt_xent(rows, temperature=tau, group=group))
        return torch.stack(losses).sum()

    def _after_generator(self, carry: Mapping[str, Tensor]) -> None:
        rows, seen = carry["rows_and_images_seen"].tolist()  # on the CPU: nothing waits
        self.game.average.update(rows, seen)
        if "phi_mean" in carry:
            self.phi_mean.copy_(carry["phi_mean"])
            self.phi_steps.add_(1)
        if "mean_style" in carry:
            self.game.track_styles(self._over_ranks(carry["mean_style"], mean=True))
        if "path_length" in carry and self.game.path_length is not None:
            self.game.path_length.track(self._over_ranks(carry["path_length"], mean=True))
