"""glue-factory's documented contract of a model, without glue-factory (it isn't on PyPI).

`BaseModel(conf)`: defaults of the class and its bases, then those given, as attributes of
`self.conf`, read-only; `_init(conf)`; parameters frozen unless `conf.trainable`. `forward(data)`
asserts `required_data_keys` and calls `_forward`. `get_model(name)`: the one subclass that the
module defines, else its `__main_model__`.
"""

import importlib
import inspect
import sys
from abc import ABCMeta, abstractmethod
from types import ModuleType

from torch import nn


class Conf(dict):
    def __getattr__(self, name):
        if name not in self:
            raise AttributeError(f"unknown entry {name} of a configuration")
        return self[name]

    def __setattr__(self, name, value):
        raise AttributeError("configurations are read-only")


class BaseModel(nn.Module, metaclass=ABCMeta):
    default_conf = {  # noqa: RUF012
        "name": None, "trainable": True, "freeze_batch_normalization": False, "timeit": False,
    }
    required_data_keys = ()

    def __init__(self, conf):
        super().__init__()
        merged = {}
        for base in reversed(type(self).__mro__):
            merged.update(vars(base).get("default_conf", {}))
        self.conf = Conf({**merged, **conf})
        self._init(self.conf)
        if not self.conf.trainable:
            for parameter in self.parameters():
                parameter.requires_grad = False

    def forward(self, data):
        for key in self.required_data_keys:
            assert key in data, f"Missing key {key} in data"
        return self._forward(data)

    @abstractmethod
    def _init(self, conf): ...

    @abstractmethod
    def _forward(self, data): ...

    @abstractmethod
    def loss(self, pred, data): ...


def get_model(name):
    module = importlib.import_module(name)
    found = [
        member for _, member in inspect.getmembers(module, inspect.isclass)
        if member.__module__ == name and issubclass(member, BaseModel)
    ]
    return found[0] if len(found) == 1 else module.__main_model__


def install(monkeypatch) -> None:
    """Makes `gluefactory.models.base_model` importable for a test."""
    for name in ("gluefactory", "gluefactory.models", "gluefactory.models.base_model"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["gluefactory.models.base_model"].BaseModel = BaseModel
    # Leaves no module behind that knows the stand-in.
    monkeypatch.setitem(sys.modules, "n3match.plugins.gluefactory", None)
    del sys.modules["n3match.plugins.gluefactory"]
