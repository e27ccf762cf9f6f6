"""Triton kernels for CUDA, each beside a function of plain PyTorch that it must equal; importing one needs Triton."""
