"""Sampling the next token."""
