"""Does the estimate of `min_timestep` separate what hurts from what does not, on images that it never saw?

Originals are made small and enlarged again, so that for each the timestep is known from which on noise hides the loss. The
estimator learns on some of them and sees only the enlarged images of the others. Compared with the best constant and with the
enlargement factor alone, each of which promises to cover as many images. Writes the figure of docs/datasets.md.

    python benchmarks/admission.py                                # OpenMoji at 96 px
    python benchmarks/admission.py --images FOLDER --side 256     # photographs: the first ones teach, the others judge
"""

import argparse
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from pangu.data.card import Card
from pangu.data.example.openmoji import every_drawing, render_png
from pangu.data.images import SUFFIXES, decode_rgb
from pangu.data.prepare.admission import round_trips
from pangu.data.prepare.upscale import upscaler_of
from pangu.diffusion.blur_admission import first_noisier, fit, spectrum_features
from pangu.diffusion.training_levels import signal_shares

GOAL = 0.5
"""Of the timesteps that the best constant wastes, so many may the estimate waste."""
UPSCALERS = ("spanx4", "lanczos")


def main() -> None:
    arguments = parse()
    images = pictures(arguments)
    results = {name: compare(name, images, arguments) for name in UPSCALERS}
    draw(results, arguments.figure)
    wasted = {name: result["wasted"] for name, result in results.items()}
    ratio = float(np.mean([w["estimate"] for w in wasted.values()]) / np.mean([w["constant"] for w in wasted.values()]))
    coverage = {name: round(result["coverage"]["estimate"], 3) for name, result in results.items()}
    for name, result in results.items():
        print(name, json.dumps({key: result[key] for key in ("coverage", "wasted")}))
    holds = ratio <= GOAL and min(coverage.values()) >= arguments.confidence - 0.05
    print(
        json.dumps({"name": "admission", "value": round(ratio, 3), "goal": GOAL, "holds": holds, "coverage": coverage})
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=Path)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--pixels", action="store_true", help="Against noise in pixels, not in the embedded latents")
    parser.add_argument("--learn", type=int, default=48)
    parser.add_argument("--judge", type=int, default=96)
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path, default=Path("var/admission.png"))
    return parser.parse_args()


def pictures(arguments: argparse.Namespace) -> list[np.ndarray]:
    """Originals of at least the asked side."""
    count = arguments.learn + arguments.judge
    if arguments.images is None:
        drawings = every_drawing()
        chosen = np.random.default_rng(arguments.seed).permutation(len(drawings))[:count]
        return [decode_rgb(render_png(drawings[index], arguments.side)).image_hwc for index in chosen]
    files = sorted(path for path in arguments.images.rglob("*") if path.suffix.lower() in SUFFIXES)
    images = [np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB")) for path in files]
    return [image for image in images if min(image.shape[:2]) >= arguments.side][:count]


def compare(upscaler: str, images: list[np.ndarray], arguments: argparse.Namespace) -> dict:
    """Coverage and wasted timesteps of the estimate, the factor alone, and one constant, on images none of them saw."""
    admission = {"autoencoder": None} if arguments.pixels else {}
    card = Card.model_validate(
        {
            "name": "admission", "source": "x.csv", "columns": {"caption_en": "en"}, "licence": {"name": "-"},
            "texture_min_side": 8,
            "upscale": {"target_side": arguments.side, "upscaler": upscaler, "admission": admission},
        }
    )  # fmt: skip
    alpha_bar = signal_shares(card.upscale.admission.noise_schedule)
    cases = round_trips(card, images, upscaler_of(card))
    features = np.stack([spectrum_features(case.enlarged_hwc, case.factor) for case in cases])
    levels, image = np.array([case.level for case in cases]), np.array([case.image for case in cases])
    seen = image < arguments.learn
    true = np.array([first_noisier(level, alpha_bar) for level in levels])
    estimates = {}
    for name, columns in (("estimate", [0, 1, 2, 3, 4]), ("factor", [0, 1, 2]), ("constant", [0])):
        estimator = fit(features[seen][:, columns], levels[seen], image[seen], arguments.confidence)
        estimates[name] = np.array([estimator.min_timestep(row[columns], alpha_bar) for row in features])
    unseen = ~seen
    return {
        "cases": [case for case, new in zip(cases, unseen, strict=True) if new],
        "true": true[unseen],
        "estimates": {name: found[unseen] for name, found in estimates.items()},
        "coverage": {name: float((found >= true)[unseen].mean()) for name, found in estimates.items()},
        "wasted": {name: float(np.maximum(found - true, 0)[unseen].mean()) for name, found in estimates.items()},
    }


def draw(results: dict[str, dict], path: Path) -> None:
    """Left: true against estimated timestep of every unseen case. Right: the true ones by factor, and what each rule admits."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), width_ratios=[1, 1, 1.1], layout="constrained")
    for axis, (name, result) in zip(axes[:2], results.items(), strict=True):
        factors = np.array([case.factor for case in result["cases"]])
        dots = axis.scatter(result["true"], result["estimates"]["estimate"], c=factors, cmap="viridis", s=9)
        axis.plot([0, 1000], [0, 1000], color="0.6", linewidth=1)
        axis.axhline(
            result["estimates"]["constant"][0], color="tab:red", linestyle="--", linewidth=1, label="best constant"
        )
        axis.set(xlim=(0, 1000), ylim=(0, 1000), xlabel="noise hides the loss from t =", title=f"enlarged by {name}")
        axis.legend(loc="lower right", frameon=False)
    axes[0].set_ylabel("min_timestep, estimated from the spectrum")
    figure.colorbar(dots, ax=axes[1], label="enlarged by factor")
    kinds = ("estimate", "factor", "constant")
    places = np.arange(len(kinds))
    for shift, (name, result) in zip((-0.2, 0.2), results.items(), strict=True):
        axes[2].bar(places + shift, [result["wasted"][kind] for kind in kinds], 0.38, label=name)
    labels = [f"{kind}\n" + ", ".join(f"{r['coverage'][kind]:.0%}" for r in results.values()) for kind in kinds]
    axes[2].set_xticks(places, labels)
    axes[2].set(ylabel="timesteps forbidden without need, mean", title="below: share of images covered")
    axes[2].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
