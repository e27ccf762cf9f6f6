"""Recipes: stages, the commands they come down to, and the processes that run them."""
