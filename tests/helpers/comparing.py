"""Folders with tiny models for `benchmarks.real_model.compare`."""

from __future__ import annotations

from layershap.datasets import load_tiny_gpt2, tiny_random


def folder_with(model, folder):
    model.save_pretrained(folder)
    load_tiny_gpt2()[1].save_pretrained(folder)
    return folder


def subject_of(folder, **options):
    """A tiny Llama as `compare` sees it; to be called where the fixture is in place."""
    from benchmarks.real_model.subject import Subject

    made = folder_with(tiny_random("llama", n_layers=10, vocab_size=4096, hidden_size=16), folder / "llama")
    return Subject.load(str(made), 0, "cpu", **options)
