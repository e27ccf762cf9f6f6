"""Operations with two implementations: one folder each, with the same functions in `torch` and `triton`.

`torch` is the reference, on any device, and documents the contract. `triton` holds kernels for CUDA and is optional.
Each folder's `implementation(device)` chooses between them.
"""
