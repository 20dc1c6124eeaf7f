"""The small dataset and the untrained generators that evaluation is tested with."""

from tests.evaluate.conftest import bench, structures, textures

__all__ = ["bench", "structures", "textures"]
