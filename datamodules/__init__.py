"""Where problems and demonstrations come from."""

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
