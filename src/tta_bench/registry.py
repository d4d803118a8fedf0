"""Names -> methods and objectives, the built-in ones and those of installed plug-ins."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from tta_bench.errors import UserError, nearest

Item = TypeVar("Item")


class Registry(Generic[Item]):
    """A name space that fills itself on first use.

    Built-in items register when the modules of ``package`` are imported. A third party's package registers by an
    entry point in the group ``package`` (for instance ``tta_bench.methods``) that names its module.

    Args:
        kind: what is registered, for messages.
        package: package of the built-in modules, and entry-point group of plug-ins.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self.broken_plugins: dict[str, str] = {}
        self._items: dict[str, Item] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[Item], Item]:
        """Class or function decorator.

        Raises:
            ValueError: the name is taken.
        """

        def decorate(item: Item) -> Item:
            if name in self._items:
                raise ValueError(f"{self.kind} '{name}' is registered twice: {self._items[name]} and {item}")
            self._items[name] = item
            return item

        return decorate

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._load()
        return sorted(self._items)

    def get(self, name: str) -> Item:
        """The item called ``name``.

        Raises:
            UserError: there is none; the message has the nearest valid name.
        """
        self._load()
        if name not in self._items:
            broken = [f"plug-in {plugin} cannot be imported: {why}" for plugin, why in self.broken_plugins.items()]
            raise UserError([f"unknown {self.kind} '{name}': {nearest(name, self._items)}", *broken])
        return self._items[name]

    def _load(self) -> None:
        """Import the built-in modules and the plug-ins, once; a broken plug-in does not stop the others."""
        if self._loaded:
            return
        self._loaded = True  # before the imports, which may look names up
        try:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__, prefix=f"{self.package}."):
                importlib.import_module(module.name)
        except BaseException:
            self._loaded = False
            raise
        for plugin in entry_points(group=self.package):
            before = dict(self._items)
            try:
                plugin.load()
            except Exception as error:
                self._items = before
                self.broken_plugins[plugin.name] = f"{plugin.value}: {type(error).__name__}: {error}"
