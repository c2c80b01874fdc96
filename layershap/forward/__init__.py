"""The fused layer-skip forward: masks -> plan -> replayed layers -> head -> per-sequence statistics."""
