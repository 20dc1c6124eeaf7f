"""Looking at drawn images before anybody sees them: nudenet, and a threshold. A switch, and no judge of meaning.

The detector and the score are those of dataset filters (`pangu.data.prepare.scores`).
"""

from typing import Any

from pangu.serve.settings import ModerationSettings


class Moderator:
    """Decides which images are withheld; one whose settings have no threshold looks at none.

    Raises:
        UserError: there is a threshold, and nudenet is not installed.
    """

    def __init__(self, settings: ModerationSettings | None = None) -> None:
        self._settings = settings or ModerationSettings()
        self._detector: Any = None
        if self.looks:
            from pangu.data.prepare.scores import nsfw_detector

            self._detector = nsfw_detector("moderation.max_score")

    @property
    def looks(self) -> bool:
        return self._settings.max_score is not None

    def withholds(self, image: Any) -> bool:
        """Whether nudenet is surer than the threshold of one of the parts that count, in an RGB PIL image."""
        if self._settings.max_score is None:
            return False
        import numpy as np

        from pangu.data.prepare.scores import nsfw

        pixels_hwc = np.asarray(image.convert("RGB"))
        return nsfw(self._detector, pixels_hwc, self._settings.parts) > self._settings.max_score
