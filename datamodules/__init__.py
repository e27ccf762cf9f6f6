"""Where problems and demonstrations come from."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vibethinker.datamodules.domain import (
        AlgebraDataModule,
        CalculusDataModule,
        CodeDataModule,
        DomainDataModule,
        GeometryDataModule,
        StatisticsDataModule,
    )

__all__ = [
    "AlgebraDataModule",
    "CalculusDataModule",
    "CodeDataModule",
    "DomainDataModule",
    "GeometryDataModule",
    "StatisticsDataModule",
]


def __getattr__(name: str) -> Any:
    """The data modules on first use: reading a file needs neither torch nor lightning."""
    if name not in __all__:
        raise AttributeError(f"module 'vibethinker.datamodules' has no attribute {name!r}")
    return getattr(import_module("vibethinker.datamodules.domain"), name)
