"""Where problems and demonstrations come from."""

from vibethinker.datamodules.domain import (
    AlgebraDataModule,
    CalculusDataModule,
    DomainDataModule,
    GeometryDataModule,
    StatisticsDataModule,
)

__all__ = [
    "AlgebraDataModule",
    "CalculusDataModule",
    "DomainDataModule",
    "GeometryDataModule",
    "StatisticsDataModule",
]
