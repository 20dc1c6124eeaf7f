"""The configuration tree: one frozen `Recipe` says everything about a run.

YAML files, Prefect forms, MLflow parameters and Serve arguments are views of it. Needs neither torch nor Ray, MLflow or Prefect.
"""

from pangu.config.between import Between
from pangu.config.denoiser_shapes import DenoiserConfig, DenoiserShape
from pangu.config.distillation import Distillation
from pangu.config.execution import Execution
from pangu.config.mixture import Mixture, MixturePart
from pangu.config.network_shape import EdgeControl, LoraConfig
from pangu.config.noise_schedule import NoiseSchedule
from pangu.config.recipe import Recipe
from pangu.config.rehearsal import REHEARSAL, Rehearsal
from pangu.config.release_rules import Gate, GateRule
from pangu.config.role_training import Optimization, RoleTraining
from pangu.config.step_reuse import Reuse
from pangu.config.tree import MIDDLE_ROLES, ROLES, STRATEGY_ROLES, Frozen, Resolution, Role, Strategy
from pangu.config.watching import Sampling, Watching
from pangu.config.weight_sources import AbsentText, AutoencoderSource, InitialWeights, TextEncoderSource, TextJoin

__all__ = [
    "MIDDLE_ROLES",
    "REHEARSAL",
    "ROLES",
    "STRATEGY_ROLES",
    "AbsentText",
    "AutoencoderSource",
    "Between",
    "DenoiserConfig",
    "DenoiserShape",
    "Distillation",
    "EdgeControl",
    "Execution",
    "Frozen",
    "Gate",
    "GateRule",
    "InitialWeights",
    "LoraConfig",
    "Mixture",
    "MixturePart",
    "NoiseSchedule",
    "Optimization",
    "Recipe",
    "Rehearsal",
    "Resolution",
    "Reuse",
    "Role",
    "RoleTraining",
    "Sampling",
    "Strategy",
    "TextEncoderSource",
    "TextJoin",
    "Watching",
]
