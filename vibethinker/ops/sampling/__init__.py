"""Sampling the next token of every sequence."""
