"""What a module's syntax tree imports, calls or hands on that could run what a file holds.

    import torch as t; t.load(p)     torch.load
    from os import system; x(system) os.system
    run(c, shell=flag)               shell: anything but False

Names are followed through the imports of the module, in whatever scope they stand.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

BUILTINS = {"eval", "exec", "compile", "__import__"}
MODULES = {
    "pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "jsonpickle", "marshal",
    "shelve", "pty", "telnetlib",
}  # fmt: skip
FUNCTIONS = {
    "os.system", "os.popen", "posix.system", "torch.load", "torch.serialization.load",
    "torch.hub.load", "torch.jit.load", "yaml.load", "yaml.load_all", "numpy.load",
}  # fmt: skip
ANYWHERE = {  # whatever stands before them
    "unsafe_load", "unsafe_load_all", "full_load", "full_load_all", "UnsafeLoader", "FullLoader",
    "read_pickle", "to_pickle", "Unpickler", "getoutput", "getstatusoutput", "mktemp",
    "create_subprocess_shell", "subprocess_shell",
}  # fmt: skip
SAFE = {"safetensors"}  # has a torch.load and a numpy.load of its own
SWITCHES = {"shell", "allow_pickle"}


def dangers(tree: ast.AST) -> Iterator[str]:
    """What could run what a file holds, in the names of where it is from."""
    names = imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from _of_import(node)
        elif isinstance(node, ast.Name | ast.Attribute):
            yield from _of_name(dotted(node, names), called=False)
        elif isinstance(node, ast.Call):
            yield from _of_name(dotted(node.func, names), called=True)
            yield from _of_call(node, names)


def imported(tree: ast.AST) -> dict[str, str]:
    """Each name that an import binds, to the whole name of what it is."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.asname: name.name for name in node.names if name.asname}
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                found[name.asname or name.name] = f"{node.module or ''}.{name.name}"
    return found


def dotted(node: ast.expr, names: Mapping[str, str]) -> str:
    """A name with its dots, as it would be without aliases; `getattr(a, "b")` is a.b."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, names)}.{node.attr}"
    if isinstance(node, ast.Call) and dotted(node.func, names) == "getattr" and len(node.args) > 1:
        return f"{dotted(node.args[0], names)}.{_text(node.args[1])}"
    return names.get(node.id, node.id) if isinstance(node, ast.Name) else ""


def _of_import(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    above = f"{node.module or ''}." if isinstance(node, ast.ImportFrom) else ""
    for name in node.names:
        whole = above + name.name
        if MODULES & set(whole.split(".")) or name.name == "*":
            yield whole
        elif isinstance(node, ast.ImportFrom):
            yield from _of_name(whole, called=False)


def _of_name(name: str, *, called: bool) -> Iterator[str]:
    """A method may be called as a builtin is: `model.eval()`; and a parameter, `compile`."""
    parts = name.removeprefix("builtins.").split(".")
    last_two, last_three = ".".join(parts[-2:]), ".".join(parts[-3:])
    builtin = name.startswith("builtins.") or (len(parts) == 1 and (called or name != "compile"))
    if (parts[0] in BUILTINS and builtin) or parts[-1] in ANYWHERE | MODULES:
        yield name
    elif {last_two, last_three} & FUNCTIONS and parts[0] not in SAFE:
        yield name


def _of_call(node: ast.Call, names: Mapping[str, str]) -> Iterator[str]:
    for word in node.keywords:
        off = isinstance(word.value, ast.Constant) and word.value.value is False
        if word.arg in SWITCHES and not off:
            yield f"{word.arg}={ast.unparse(word.value)}"
    if dotted(node.func, names).endswith("import_module") and node.args:
        if MODULES & set(_text(node.args[0]).split(".")):
            yield _text(node.args[0])
    yield from _of_name(dotted(node, names), called=True)


def _text(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else ""
