"""Memory goes back to the system, where its C library knows how."""

import ctypes

from n3match.pipelines.common import free_memory


def test_it_asks_the_c_library_to(monkeypatch):
    asked = []
    monkeypatch.setattr(free_memory, "_trim", lambda: asked.append)
    free_memory.give_back_free_memory()
    assert asked == [0]


def test_other_c_libraries_are_left_alone(monkeypatch):
    def missing(name):
        raise OSError

    monkeypatch.setattr(ctypes, "CDLL", missing)
    free_memory._trim.cache_clear()
    free_memory.give_back_free_memory()
    assert free_memory._trim() is None
    free_memory._trim.cache_clear()
