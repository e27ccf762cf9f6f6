"""Atomic files, asynchronous copies, the hub."""
