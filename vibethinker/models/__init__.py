"""Models: names resolved, weights loaded, adapters merged, folders exported."""
