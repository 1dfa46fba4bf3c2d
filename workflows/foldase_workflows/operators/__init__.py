"""The operators that come with foldase: one module each, found by looking into this folder.

Every module without a leading underscore defines ``OPERATOR``.
"""

import importlib
import pkgutil

OPERATORS = tuple(
    importlib.import_module(f"{__name__}.{module.name}").OPERATOR
    for module in pkgutil.iter_modules(__path__)
    if not module.name.startswith("_")
)
