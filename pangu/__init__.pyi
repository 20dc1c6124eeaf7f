from pangu.config import Recipe as Recipe
from pangu.data.card import Card as Card
from pangu.evaluate.evaluation import evaluate as evaluate
from pangu.pipelines.coop import CoopPipeline as CoopPipeline
from pangu.pipelines.pangu_draw import PanGuDrawPipeline as PanGuDrawPipeline
from pangu.train.launch import train as train

__version__: str
