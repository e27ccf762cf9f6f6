"""The `vibethinker` command."""
