"""Move a recommender from a rich scenario to a poor one, and say honestly whether it helped."""

__version__ = "0.1.0"

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .core import CrossrecError as CrossrecError
    from .domain import Domain as Domain
    from .evaluate import evaluate as evaluate
    from .finetune import finetune as finetune
    from .recommend import Recommender as Recommender
    from .search import tune as tune
    from .study import transfer as transfer

# Each public name and the module that defines it. A module is imported when its name is first used, so that
# `import crossrec` stays quick (PEP 562).
_MODULE_OF = {
    "CrossrecError": "core",
    "Domain": "domain",
    "Recommender": "recommend",
    "evaluate": "evaluate",
    "finetune": "finetune",
    "transfer": "study",
    "tune": "search",
}
__all__ = [*_MODULE_OF, "__version__"]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps `crossrec.transfer`, `.evaluate` and `.finetune` the functions, though modules have the same names.

    When a submodule is imported, Python binds it as an attribute of its package, which would hide the function.
    The modules stay reachable: `from crossrec.transfer import Study`.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _MODULE_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
