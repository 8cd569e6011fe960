"""The statistics: trend, effective robustness, its errors, contrasts and regressions. Numbers in, numbers out."""
