"""A quick check that the hub answers: without a network its libraries retry for half a minute before they fail."""

from __future__ import annotations

from typing import Final, Literal

_SECONDS: Final = 10


def ask_the_hub(kind: Literal["model", "dataset"], name: str) -> None:
    """Checks that the hub answers; errors about the name itself are left to the libraries that load it.

    Nothing is checked in offline mode, or for a model whose configuration is in the cache.

    Raises:
        ConnectionError: no answer.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        if constants.HF_HUB_OFFLINE or (kind == "model" and try_to_load_from_cache(name, "config.json")):
            return
        HfApi().repo_info(name, repo_type=kind, timeout=_SECONDS)
    except (HfHubHTTPError, HFValidationError):
        return
    except Exception as error:  # of whichever HTTP library it uses
        raise ConnectionError(
            f"the hub cannot be reached ({error}); HF_HUB_OFFLINE=1 takes a copy that was downloaded before"
        ) from error
