"""What is left in a project that a deployment would have otherwise, said in plain sentences."""

import ast
import importlib.util
import os
import sys

from django.core.exceptions import ImproperlyConfigured

SETTINGS_VARIABLE = "DJANGO_SETTINGS_MODULE"


def findings():
    """One sentence for each thing in the project that stays as it is; the settings have been imported before."""
    sentences = []
    for module, tree in settings_modules(os.environ["TRESTLE_SETTINGS_MODULE"]):
        if getattr(sys.modules.get(module), "DEBUG", False):
            sentences += [debug_branch(module, node) for node in ast.walk(tree) if asks_for_debug(node)]
    return sentences + wsgi_findings(os.environ.get("TRESTLE_WSGI", "").partition(":")[0])


def cache_findings(caches):
    """Of a project that reads its environment itself, the caches that a lost host would take the site down with."""
    return [
        f"CACHES[{alias!r}] waits for a cache host that is down, and then fails the request: let its BACKEND be what "
        "CACHE_BACKEND in the environment says."
        for alias, own in caches.items()
        if own["BACKEND"].endswith("PyMemcacheCache") and not own.get("OPTIONS", {}).get("ignore_exc")
    ]


def refuse_configurations(settings_module):
    """django-configurations makes settings of classes, which no module can import from another."""
    for module, tree in settings_modules(settings_module):
        if any(imported.split(".")[0] == "configurations" for imported in imports(tree)):
            raise ImproperlyConfigured(
                f"{module} uses django-configurations, which django-admin cannot read, nor other settings build on: "
                "name a settings_module in the site's entry that does without it."
            )


def debug_branch(module, node):
    return (
        f"{module}, line {node.lineno}: what `if DEBUG` did while the project's own DEBUG was true stays done: let the "
        "project's DEBUG be false unless its environment says DEBUG=true, or name settings for production."
    )


def asks_for_debug(node):
    if not isinstance(node, (ast.If, ast.IfExp)):
        return False
    return any(isinstance(part, ast.Name) and part.id == "DEBUG" for part in ast.walk(node.test))


def wsgi_findings(module):
    tree = parsed(module)
    sentences = []
    for node in ast.walk(tree) if tree else []:
        for target in node.targets if isinstance(node, ast.Assign) else []:
            place = f"{module}, line {node.lineno}"
            if isinstance(target, ast.Subscript) and ast.unparse(target.value).split(".")[-1] == "environ":
                name = target.slice.value if isinstance(target.slice, ast.Constant) else ast.unparse(target.slice)
                sentences.append(wsgi_environment(place, name, ast.unparse(node.value)))
            elif isinstance(target, ast.Attribute) and ast.unparse(target.value) == "settings":
                sentences.append(
                    f"{place}: settings.{target.attr} is set to {ast.unparse(node.value)}, which stays: remove it."
                )
    return sentences


def wsgi_environment(place, name, value):
    if name == SETTINGS_VARIABLE:
        return f"{place}: {name} is set to {value}, which is ignored: the settings have been chosen before."
    return f"{place}: {name} is set to {value}, whatever the site's environment says: use os.environ.setdefault."


def settings_modules(name):
    """(name, syntax tree) of the settings module and of the project's own modules that it takes settings from."""
    waiting, seen = [name], set()
    while waiting:
        module = waiting.pop(0)
        tree = None if module in seen else parsed(module)
        seen.add(module)
        if tree is None:
            continue
        yield module, tree
        package = name.split(".")[0]
        waiting += [other for other in star_imports(module, tree) if other.split(".")[0] == package]


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def star_imports(module, tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            relative = "." * node.level + (node.module or "")
            yield importlib.util.resolve_name(relative, package_of(module)) if node.level else node.module


def package_of(module):
    spec = importlib.util.find_spec(module)
    return module if spec.submodule_search_locations else module.rpartition(".")[0]


def parsed(module):
    """The syntax tree of a module, None where there is no source to read."""
    try:
        spec = importlib.util.find_spec(module) if module else None
        source = spec.loader.get_source(module) if spec else None
    except (ImportError, AttributeError):
        return None
    return ast.parse(source) if source else None
