"""The build config: one YAML file, read once, checked completely, never changed afterwards.

The user's view of every key is docs/configuration.md.
"""

from .buildable import Obstacle, check_buildable, describe_obstacles, find_obstacles
from .load import load_config
from .schema import (
    BackendConfig,
    BudgetConfig,
    BuildConfig,
    CalibArgs,
    CompileOptions,
    DatasetConfig,
    FrontendConfig,
    ModelKwargs,
    QuantizeConfig,
    RuntimeConfig,
    ShapeConfig,
    TargetConfig,
    VerifyConfig,
    WorkspaceConfig,
)
from .settings import effective_settings, flat_settings

__all__ = [
    "BackendConfig",
    "BudgetConfig",
    "BuildConfig",
    "CalibArgs",
    "CompileOptions",
    "DatasetConfig",
    "FrontendConfig",
    "ModelKwargs",
    "Obstacle",
    "QuantizeConfig",
    "RuntimeConfig",
    "ShapeConfig",
    "TargetConfig",
    "VerifyConfig",
    "WorkspaceConfig",
    "check_buildable",
    "describe_obstacles",
    "effective_settings",
    "find_obstacles",
    "flat_settings",
    "load_config",
]
