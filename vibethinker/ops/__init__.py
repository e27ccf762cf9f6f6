"""Operations with an implementation for every device.

One folder an operation: the contract in `__init__`, `torch` (the reference, on any device) and `triton` (CUDA).
`implementation(device)` chooses; Triton is optional, so it is imported on CUDA alone.
"""
