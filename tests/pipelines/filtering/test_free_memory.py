"""Memory goes back to the system, where its C library knows how."""

import ctypes

from n3match.pipelines.filtering import pair_logits


def test_it_asks_the_c_library_to(monkeypatch):
    asked = []
    monkeypatch.setattr(pair_logits, "_trim", lambda: asked.append)
    pair_logits.give_back_free_memory()
    assert asked == [0]


def test_other_c_libraries_are_left_alone(monkeypatch):
    def missing(name):
        raise OSError

    monkeypatch.setattr(ctypes, "CDLL", missing)
    pair_logits._trim.cache_clear()
    pair_logits.give_back_free_memory()
    assert pair_logits._trim() is None
    pair_logits._trim.cache_clear()
