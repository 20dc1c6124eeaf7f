"""What the pair drew before it was trained: the same prompts and seeds, by the weights that training started from."""

from pangu.config import Recipe
from pangu.demo.queries import LANGUAGES, SEED, Answers
from pangu.evaluate.bootstrap import Difference, bootstrap, paired
from pangu.evaluate.retrieval import rank

CONFIDENCE, RESAMPLES = 0.95, 2000


def before(recipe: Recipe, answers: Answers, size: int) -> Answers:
    """The prompts of `answers`, drawn in this process by the pair at step 0; `size` is a side in px."""
    import torch

    from pangu.models.sources import without_bars
    from pangu.pipelines.assemble import starting_pair

    without_bars()
    pair = starting_pair(recipe)
    pair.set_progress_bar_config(disable=True)
    found = Answers(answers.prompts, answers.truth, styles=answers.styles)
    for language in LANGUAGES:
        texts = [getattr(prompt, language) for prompt in answers.prompts]
        found.images[language] = pair(
            texts,
            height=size,
            width=size,
            num_inference_steps=recipe.sampling.num_inference_steps,
            guidance_scale=recipe.sampling.guidance_scale,
            styles=answers.styles,
            generator=[torch.Generator().manual_seed(SEED) for _ in texts],
        ).images
    return found


def gain(after: Answers, earlier: Answers) -> dict[str, dict[str, Difference]]:
    """Language -> `top1` and `similarity` of retrieval: after minus before, prompt by prompt, with its 95 % interval."""
    found = {}
    for language in LANGUAGES:
        values = [_by_prompt(answers, language) for answers in (after, earlier)]
        found[language] = {
            name: bootstrap(paired(values[0][name], values[1][name]), CONFIDENCE, RESAMPLES)
            for name in ("top1", "similarity")
        }
    return found


def _by_prompt(answers: Answers, language: str) -> dict[str, dict[str, float]]:
    keys = [prompt.key for prompt in answers.prompts]
    values = rank(answers.images[language], keys, answers.truth).values
    return {name: dict(zip(keys, of, strict=True)) for name, of in values.items()}
