"""Names -> what can be chosen by name: methods, objectives, readers, ...; built in, or of installed plug-ins."""

from __future__ import annotations

import importlib
import pkgutil
import threading
from collections.abc import Callable
from fnmatch import filter as matching
from functools import cache
from importlib import metadata
from typing import Any, Generic, TypeVar

from tta_bench.errors import UserError, nearest

Item = TypeVar("Item")


def entry_points(group: str) -> metadata.EntryPoints:
    """The plug-ins of a group, of the packages that were installed when a process first asked."""
    found: metadata.EntryPoints = _all_entry_points().select(group=group)
    return found


@cache
def _all_entry_points() -> Any:  # its type depends on the version of Python
    """Looked up once: Python reads the metadata of every installed package for each group anew."""
    return metadata.entry_points()


class Registry(Generic[Item]):
    """A name space that fills itself on first use.

    Built-in items register when the modules of ``package`` are imported. A third party's package registers by an
    entry point in the :attr:`group` that names its module.

    Args:
        kind: what is registered, in the singular: ``method``, ``pretext task``.
        package: of the built-in modules, one or more items in each; or a single module with all of them.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self.broken_plugins: dict[str, str] = {}
        self._items: dict[str, Item] = {}
        self._loaded = self._loading = False
        self._lock = threading.RLock()

    @property
    def group(self) -> str:
        """The entry-point group of plug-ins: ``tta_bench.methods``, ``tta_bench.pretext_tasks``."""
        return f"tta_bench.{self.kind.replace(' ', '_')}s"

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

    def names(self, pattern: str = "*") -> list[str]:
        """The registered names that match a pattern with the wildcards ``*``, ``?`` and ``[...]``, sorted."""
        self._load()
        return sorted(matching(self._items, pattern))

    def nearest(self, name: str) -> str:
        """A hint for a name that is not registered, see :func:`tta_bench.errors.nearest`."""
        return nearest(name, self.names())

    def get(self, name: str) -> Item:
        """The item called ``name``.

        Raises:
            UserError: there is none; the message has the nearest valid name.
        """
        self._load()
        if name not in self._items:
            broken = [f"plug-in {plugin} cannot be imported: {why}" for plugin, why in self.broken_plugins.items()]
            raise UserError([f"unknown {self.kind} '{name}': {self.nearest(name)}", *broken])
        return self._items[name]

    def name_of(self, item: Item) -> str | None:
        """The name that an item is registered by; None if it is not."""
        self._load()
        return next((name for name, each in self._items.items() if each is item), None)

    def _load(self) -> None:
        """Import the built-in modules and the plug-ins, once, while other threads wait; imports may look names up."""
        if self._loaded:
            return
        with self._lock:
            if self._loaded or self._loading:
                return
            self._loading = True
            try:
                package = importlib.import_module(self.package)
                for module in pkgutil.iter_modules(getattr(package, "__path__", ()), prefix=f"{self.package}."):
                    importlib.import_module(module.name)
                self._load_plugins()
                self._loaded = True
            finally:
                self._loading = False

    def _load_plugins(self) -> None:
        """Import those of third parties; a broken one does not stop the others."""
        for plugin in entry_points(group=self.group):
            before = dict(self._items)
            try:
                plugin.load()
            except Exception as error:
                self._items = before
                self.broken_plugins[plugin.name] = f"{plugin.value}: {type(error).__name__}: {error}"
