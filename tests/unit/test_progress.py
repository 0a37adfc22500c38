"""Observers of a run: each of several is told everything."""

import inspect

import pytest

from amnestic.progress import Observers, Progress

METHODS = {name: method for name, method in vars(Progress).items() if not name.startswith("_")}


@pytest.mark.parametrize("name", METHODS)
def test_every_call_reaches_every_observer_in_their_order(monkeypatch, name):
    told: list = []
    first, second = Progress(), Progress()
    for number, observer in enumerate((first, second)):
        monkeypatch.setattr(observer, name, lambda *given, number=number: told.append((number, given)))
    arguments = tuple(object() for _ in list(inspect.signature(METHODS[name]).parameters)[1:])
    getattr(Observers(first, second), name)(*arguments)
    assert told == [(0, arguments), (1, arguments)]


def test_a_default_of_a_call_stays(monkeypatch):
    told: list = []
    observer = Progress()
    monkeypatch.setattr(observer, "advance", lambda units=1: told.append(units))
    Observers(observer).advance()
    Observers(observer).advance(5)
    assert told == [1, 5]
