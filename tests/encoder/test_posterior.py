"""Posteriors: drawing latents that depend on a seed alone."""

import pytest
import torch

from encoder.posterior import Posterior, from_moments


def posterior(mean: float = 0.0, logvar: float = 0.0, batch: int = 1) -> Posterior:
    shape = (batch, 4, 3, 40, 40)
    return Posterior(torch.full(shape, mean), torch.full(shape, logvar))


def test_a_seed_gives_the_same_latent_and_another_seed_another() -> None:
    assert torch.equal(posterior().sample("run:clip-1"), posterior().sample("run:clip-1"))
    assert not torch.equal(posterior().sample("run:clip-1"), posterior().sample("run:clip-2"))


def test_a_clips_sample_does_not_depend_on_the_batch_it_is_in() -> None:
    together = posterior(batch=2).sample("a", "b")
    assert torch.equal(together[1:], posterior().sample("b"))


def test_samples_have_the_mean_and_the_spread_of_the_posterior() -> None:
    sample = posterior(mean=3.0, logvar=2 * torch.log(torch.tensor(0.5)).item()).sample("x")
    assert sample.mean().item() == pytest.approx(3.0, abs=0.02)
    assert sample.std().item() == pytest.approx(0.5, abs=0.02)


def test_the_log_variance_is_clamped_where_it_is_used() -> None:
    assert torch.equal(posterior(logvar=100.0).sample("x"), posterior(logvar=20.0).sample("x"))
    assert posterior(logvar=-1000.0).sample("x").abs().max() < 1e-5


def test_every_clip_of_a_batch_needs_its_seed() -> None:
    with pytest.raises(ValueError, match="1 seeds for 2 clips"):
        posterior(batch=2).sample("x")


def test_moments_are_mean_then_log_variance_in_float32() -> None:
    both = from_moments(torch.arange(8.0).view(1, 8, 1, 1, 1).bfloat16(), 4)
    assert both.mean.flatten().tolist() == [0, 1, 2, 3]
    assert both.logvar.flatten().tolist() == [4, 5, 6, 7]
    assert both.mean.dtype == both.logvar.dtype == torch.float32


def test_a_model_without_variance_has_the_least_there_is() -> None:
    assert from_moments(torch.ones(1, 4, 1, 1, 1), 4).logvar.unique().tolist() == [-30.0]
