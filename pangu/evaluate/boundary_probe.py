"""`pangu boundary`: measures on a corpus and a probe run what `boundary.py` needs, and writes curve, picture and recommendation.

The probe is any generator folder that covers [0, T), or two halves that do so together.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pangu.config import NoiseSchedule, Recipe
from pangu.contract import GeneratorContract
from pangu.data.card import Card, Split
from pangu.data.encode.pixels import fit_pixels
from pangu.data.prepare.upscale import resize, upscale_to, upscaler_of
from pangu.data.table.delta import latest_version, read_rows
from pangu.diffusion.interval import TimeInterval
from pangu.diffusion.training_levels import signal_shares, training_levels
from pangu.errors import UserError
from pangu.evaluate import boundary as rule
from pangu.evaluate.boundary_outcome import BoundaryOutcome, CurvePoint
from pangu.evaluate.boundary_picture import draw
from pangu.evaluate.eval_set import holds_out
from pangu.evaluate.probe_latents import denoiser_of, encode_images, encode_sample, originals
from pangu.evaluate.timestep_loss import (
    BATCH,
    CleanLatents,
    buckets,
    clean_errors,
    common_noise,
    prediction_errors,
    spread,
)
from pangu.models.autoencoders import load_autoencoder
from pangu.models.placeholder_tokens import text_towers_of
from pangu.pipelines.assemble import check_encoders, load_generator
from pangu.progress import Progress, Reporter, silent
from pangu.sampling.question import Denoiser
from pangu.storage import Home, write_atomically, write_json

PARTS = 40
COMMON_FACTOR = 2.0
MOST_LOG_SNR = 27.6
"""Stands for the infinities of no noise and of noise alone in a mean."""


def find_boundary(
    card: Card,
    generators: Sequence[Path],
    recipe: Recipe,
    home: Home,
    folder: Path,
    version: int | None = None,
    count: int = 96,
    visible_share: float = rule.VISIBLE_SHARE,
    seed: int = 1234,
    report: Reporter = silent,
) -> BoundaryOutcome:
    """Measure both marks on `count` originals of the dataset, held out ones where there are any, and recommend T_struct.

    Leaves `boundary.json` and `boundary.png` in `folder`.

    Raises:
        UserError: the generators do not cover [0, T), or were trained with other encoders than the recipe's.
    """
    version = latest_version(home, card.name) if version is None else version
    split: Split = "held_out" if holds_out(home, card.name, version) else "train"
    networks = [load_generator(path) for path in generators]
    contracts = [contract for _, contract in networks]
    schedule = check_cover(contracts)
    autoencoder = load_autoencoder(recipe.autoencoder)
    towers = text_towers_of(recipe)
    for contract in contracts:
        check_encoders(contract, autoencoder, towers)

    side = max(contract.resolution for contract in contracts)
    images, captions = originals(home, card.name, version, split, count, seed)
    sample = encode_sample(images, captions, side, autoencoder, towers, recipe.max_tokens)
    factor = small_image_factor(home, card.name, version)
    lost = lost_detail(sample.latents_nchw, images, side, factor, card, autoencoder)
    visible = rule.visible_detail(rule.mode_powers(lost), signal_shares(schedule))

    denoisers = [(contract.interval, denoiser_of(network, contract, side)) for network, contract in networks]
    curve = probe_curve(denoisers, sample, schedule, 1 / factor, visible, seed, report)
    timesteps, unknown = zip(*((point.timestep, point.unknown_layout) for point in curve), strict=True)
    found = rule.recommend(visible, np.array(timesteps), np.array(unknown), visible_share)
    outcome = BoundaryOutcome(
        dataset=card.name,
        version=version,
        split=split,
        images=len(sample),
        upscale_factor=factor,
        upscaler=card.upscale.model or card.upscale.upscaler,
        visible_share=visible_share,
        recommendation=found,
        hand_over=hand_over(curve, [contract.interval for contract in contracts]),
        curve=tuple(curve),
        picture=str(folder / "boundary.png"),
    )
    write_atomically(folder / "boundary.png", draw(outcome, visible))
    write_json(folder / "boundary.json", outcome.model_dump(mode="json"))
    return outcome


def check_cover(contracts: Sequence[GeneratorContract]) -> NoiseSchedule:
    """The schedule of generators that together know every timestep.

    Raises:
        UserError: there is none, a timestep that none of them trained, or two schedules.
    """
    if not contracts:
        raise UserError("The boundary finder needs a probe: one generator of the full range, or the two halves.")
    schedule = contracts[0].schedule
    if any(contract.schedule != schedule for contract in contracts):
        raise UserError("The probe's generators were trained with different noise schedules; probe with one recipe.")
    reached = 0
    for interval in sorted((contract.interval for contract in contracts), key=lambda one: one.low):
        if interval.low > reached:
            raise UserError(f"No generator of the probe covers [{reached}, {interval.low}); add one that does.")
        reached = max(reached, interval.high)
    if reached < schedule.num_train_timesteps:
        raise UserError(f"No generator of the probe covers [{reached}, {schedule.num_train_timesteps}); add one.")
    return schedule


def small_image_factor(home: Home, dataset: str, version: int) -> float:
    """The median factor by which the dataset's small images were enlarged; `COMMON_FACTOR` where none was."""
    rows = read_rows(home, dataset, version, columns=["upscale_factor"], upscaled=True)
    factors = [value for value in rows["upscale_factor"].to_pylist() if value and value > 1]
    return float(np.median(factors)) if factors else COMMON_FACTOR


def lost_detail(
    latents_nchw: Tensor, images: Sequence[bytes], side: int, factor: float, card: Card, autoencoder: Any
) -> Tensor:
    """Latents of originals minus those of the same images made small and enlarged by the card's upscaler, (N, C, H, W)."""
    upscaler, small = upscaler_of(card), max(1, round(side / factor))
    enlarged = [upscale_to(resize(fit_pixels(image, side), small, small), side, upscaler)[0] for image in images]
    return latents_nchw - encode_images(enlarged, autoencoder)


@torch.inference_mode()
def probe_curve(
    denoisers: Sequence[tuple[TimeInterval, Denoiser]],
    sample: CleanLatents,
    schedule: NoiseSchedule,
    layout_share: float,
    visible_t: rule.Floats,
    seed: int,
    report: Reporter = silent,
) -> list[CurvePoint]:
    """One point per part of [0, T), each timestep asked of the first denoiser whose interval holds it."""
    total, levels = schedule.num_train_timesteps, training_levels(schedule)
    centred = rule.frequencies(sample.latents_nchw - sample.latents_nchw.mean(0))
    power, layout_power = _power(centred), _power(rule.low_band(centred, layout_share))
    parts = [part for interval, _ in _disjoint(denoisers) for part in buckets(interval, total, PARTS)]
    points: list[CurvePoint] = []
    for part in sorted(parts, key=lambda one: one.low):
        denoiser = next(one for interval, one in denoisers if part.low in interval and part.high - 1 in interval)
        errors, timesteps = _errors(denoiser, sample, part, schedule, seed)
        level = levels.level(timesteps)
        clean = rule.frequencies(clean_errors(errors, level, levels.prediction))
        middle = (part.low + part.high - 1) / 2
        points.append(
            CurvePoint(
                timestep=middle,
                log_snr=float(level.log_snr.double().clamp(-MOST_LOG_SNR, MOST_LOG_SNR).mean()),
                loss=_power(errors),
                unknown=_power(clean) / power,
                unknown_layout=_power(rule.low_band(clean, layout_share)) / layout_power,
                visible_detail=float(visible_t[part.low : part.high].mean()),
            )
        )
        report(Progress(stage="boundary", done=part.high, total=total, unit="timesteps"))
    return points


def hand_over(curve: Sequence[CurvePoint], intervals: Sequence[TimeInterval]) -> float | None:
    """The open layout just below the only inner boundary of the intervals over that just above; None without such a one."""
    inner = sorted({interval.low for interval in intervals if interval.low > 0})
    if len(inner) != 1:
        return None
    below = [point.unknown_layout for point in curve if point.timestep < inner[0]]
    above = [point.unknown_layout for point in curve if point.timestep >= inner[0]]
    return below[-1] / max(above[0], 1e-9) if below and above else None


def _disjoint(denoisers: Sequence[tuple[TimeInterval, Denoiser]]) -> list[tuple[TimeInterval, Denoiser]]:
    """The denoisers in the order of their timesteps, none of them for timesteps that the one before knows."""
    found: list[tuple[TimeInterval, Denoiser]] = []
    reached = 0
    for interval, denoiser in sorted(denoisers, key=lambda one: (one[0].low, -one[0].high)):
        if interval.high > reached:
            found.append((TimeInterval(max(reached, interval.low), interval.high), denoiser))
            reached = interval.high
    return found


def _errors(
    denoiser: Denoiser, sample: CleanLatents, part: TimeInterval, schedule: NoiseSchedule, seed: int
) -> tuple[Tensor, Tensor]:
    noise, timesteps = common_noise(sample.latents_nchw.shape, seed, part.low), spread(part, len(sample))
    chunks = []
    for start in range(0, len(sample), BATCH):
        here = slice(start, start + BATCH)
        text = sample.tokens_nsc[here], sample.pooled_np[here]
        latents = sample.latents_nchw[here]
        chunks.append(prediction_errors(denoiser, latents, *text, timesteps[here], noise[here], schedule))
    return torch.cat(chunks), timesteps


def _power(tensor: Tensor) -> float:
    return float(tensor.double().square().mean())
