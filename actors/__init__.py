"""Long-lived actors: each is a fold over its stream."""
