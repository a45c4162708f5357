"""The one guarded way to run what a configuration names.

A configuration can name anything importable, so a name is held against what is allowed twice:
before its module is imported, and again on the object it resolved to, by that object's own module,
for a name such as `mpt.data.numpy.save` begins well and leads elsewhere. Code of the user's own is
admitted by --allow or MPT_ALLOW only, never by the configuration.
"""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mpt.argument_types import annotation_of, fits
from mpt.dotted_names import within
from mpt.errors import ConfigurationError

# Builders of ours, and classes (never functions, some of which load code) of Keras's.
OURS = ("mpt.models", "mpt.data", "mpt.optim")
KERAS = (
    "keras.callbacks",
    "keras.initializers",
    "keras.losses",
    "keras.metrics",
    "keras.optimizers",
    "keras.regularizers",
)

# Of those, what deletes or writes where it is told to, sends what it sees, or calls what it is
# given: only with --allow.
REACHING_OUT = tuple(
    f"keras.callbacks.{name}"
    for name in (
        *("BackupAndRestore", "CSVLogger", "LambdaCallback", "ModelCheckpoint"),
        *("OrbaxCheckpoint", "RemoteMonitor", "TensorBoard"),
    )
)

# What runs programs, changes files or loads code: no error says how to admit it.
OF_PROGRAMS = (
    *("builtins", "code", "codeop", "ctypes", "importlib", "marshal", "multiprocessing", "nt"),
    *("os", "pathlib", "pickle", "pkgutil", "posix", "pty", "runpy", "shelve", "shutil", "socket"),
    *("subprocess", "sys", "tempfile", "webbrowser"),
)


def call(node: Mapping[str, Any], *, where: str, allow: tuple[str, ...], **arguments: Any) -> Any:
    """Call what `node` names in `_target_` with its other keys.

    Args:
        node: `_target_` and arguments; nested nodes are called first, and a `function` of the form
            "module:function" or "file.py:function" is loaded.
        where: key of the node in the configuration, for errors.
        allow: modules and files of the user's own that are admitted.
        **arguments: passed where the target takes them by name, unless the node gives them.

    Raises:
        ConfigurationError: a target that is not allowed or does not exist, an argument that it
            does not take, lacks, or that has the wrong type.
    """
    target = _load_target(node, where, allow)
    signature = _signature(target)
    if signature is not None:
        for key, value in arguments.items():
            if key in signature.parameters and node.get(key) is None:
                node = {**node, key: value}
        if "name" not in signature.parameters and not _takes_any(signature):
            node = {key: value for key, value in node.items() if key != "name"}
    users = not within(node["_target_"], (*OURS, *KERAS))
    given = {
        key: _argument(key, value, f"{where}.{key}", allow, users=users or key == "kwargs")
        for key, value in node.items()
        if key != "_target_"
    }
    if signature is not None:
        given = _checked(target, signature, given, where)
    if not inspect.getmodule(target).__name__.startswith("keras."):  # type: ignore[union-attr]
        return target(**given)
    try:
        return target(**given)
    except (AttributeError, ImportError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{node['_target_']} refused its arguments: {error}", where=where
        ) from error


def resolve(value: Any, *, where: str, allow: tuple[str, ...], users: bool = False) -> Any:
    """`value` with every node in it, at any depth of its lists and mappings, called.

    Args:
        users: it is for code of the user's own, which may give any key a meaning.
    """
    if isinstance(value, Mapping):
        if "_target_" in value:
            return call(value, where=where, allow=allow)
        if not users:
            _check_unserialized(value, where)
        return {
            key: resolve(child, where=f"{where}.{key}", allow=allow, users=users)
            for key, child in value.items()
        }
    if isinstance(value, list | tuple):
        return [
            resolve(child, where=f"{where}[{index}]", allow=allow, users=users)
            for index, child in enumerate(value)
        ]
    return value


def check_arguments(node: Mapping[str, Any], *, where: str, supplied: tuple[str, ...]) -> None:
    """Hold a node of ours against its builder's signature, without calling it.

    Args:
        node: `_target_` and arguments. Only `mpt.models` and `mpt.data` are looked at: to import
            them imports no TensorFlow.
        where: key of the node.
        supplied: arguments that the run will add.

    Raises:
        ConfigurationError: as `call`.
    """
    if not within(str(node["_target_"]), OURS[:2]):
        return
    target = _load_target(node, where, ())
    signature = _signature(target)
    if signature is None:
        return
    given = {key: value for key, value in node.items() if key not in ("_target_", "function")}
    if "name" not in signature.parameters:
        given.pop("name", None)
    _checked(target, signature, given, where, partial=(*supplied, "function"))


def check_allowed(value: Any, *, where: str, allow: tuple[str, ...], users: bool = False) -> None:
    """Raise ConfigurationError where `value` names code that is not admitted; nothing is imported.

    Args:
        value: a node, or lists and mappings that hold nodes.
        where: key of the configuration.
        allow: modules and files that are admitted.
        users: as `resolve`.
    """
    if isinstance(value, Mapping):
        if "_target_" in value:
            path = _check_path(value["_target_"], f"{where}._target_", allow)
            users = not within(path, (*OURS, *KERAS))
            if isinstance(value.get("function"), str):
                _check_spec(value["function"], f"{where}.function", allow)
        if not users:
            _check_unserialized(value, where)
        for key, child in value.items():
            own = users or ("_target_" in value and key == "kwargs")
            check_allowed(child, where=f"{where}.{key}", allow=allow, users=own)
    elif isinstance(value, list | tuple):
        for index, child in enumerate(value):
            check_allowed(child, where=f"{where}[{index}]", allow=allow, users=users)


def load_function(spec: str, *, where: str = "function", allow: tuple[str, ...] = ()) -> Callable:
    """The user's function that `spec` names.

    Args:
        spec: "module:function" or "path/to/file.py:function".
        where: key of the configuration, for errors.
        allow: modules and files that are admitted.

    Raises:
        ConfigurationError: not admitted (with the flag to add), no such file, module or function,
            or the module cannot be imported.
    """
    source, name = _check_spec(spec, where, allow)
    module = _import_file(source, where) if source.endswith(".py") else _import(source, where)
    found = getattr(module, name, None)
    if found is None:
        public = [key for key, value in vars(module).items() if callable(value)]
        raise ConfigurationError(
            f"{source} has no function {name!r}", where=where, allowed=public, value=name
        )
    _check_origin(found, spec, where, allow, home=module.__name__)
    return found


def admits(path: str, allow: tuple[str, ...]) -> bool:
    """Whether `allow` holds the dotted `path`, or a module that it lies in."""
    return within(path, _modules(allow))


def admission(module: str) -> str:
    """What to do about code in `module` that is not admitted."""
    if module.partition(".")[0] in OF_PROGRAMS:
        return f"leave it out: {module} runs programs or changes files; no configuration needs it"
    return f"if you trust it, add: --allow {module}"


def _load_target(node: Mapping[str, Any], where: str, allow: tuple[str, ...]) -> Callable:
    where = f"{where}._target_"
    path = _check_path(node.get("_target_"), where, allow)
    module_name, _, name = path.rpartition(".")
    module = _import(module_name, where)
    found = getattr(module, name, None)
    if not callable(found):
        public = [
            f"{module_name}.{key}"
            for key, value in vars(module).items()
            if callable(value) and not key.startswith("_")
        ]
        raise ConfigurationError(
            f"{module_name} has no {name!r} to call",
            where=where,
            allowed=public if len(public) <= 12 else (),
            value=path,
        )
    _check_origin(found, path, where, allow)
    return found


def _check_path(path: Any, where: str, allow: tuple[str, ...]) -> str:
    """A target's dotted path, if it begins where code is admitted."""
    if not isinstance(path, str) or not all(part.isidentifier() for part in path.split(".")):
        raise ConfigurationError(
            f"{path!r} names nothing that can be called",
            where=where,
            allowed=["module.function", "module.Class"],
        )
    admitted = _modules(allow)
    if not within(path, (*OURS, *KERAS, *admitted)) or (
        path in REACHING_OUT and not within(path, admitted)
    ):
        raise _not_admitted(path, path.rpartition(".")[0] or path, where)
    if any(part.startswith("_") for part in path.split(".")):
        raise ConfigurationError(f"{path!r} is not public", where=where)
    return path


def _check_unserialized(value: Mapping[str, Any], where: str) -> None:
    """Refuse what Keras would build objects from by rules of its own, past this guard."""
    if "class_name" in value:
        raise ConfigurationError(
            "class_name is how Keras writes an object down, and is not read here",
            where=f"{where}.class_name",
            remedy="name it by _target_, as in {_target_: keras.losses.Huber, delta: 2.0}",
        )


def _check_spec(spec: str, where: str, allow: tuple[str, ...]) -> tuple[str, str]:
    """The file or module, and the function in it, of a spec whose code is admitted."""
    source, colon, name = spec.rpartition(":")
    if not colon or not source or not name.isidentifier():
        raise ConfigurationError(
            f"{spec!r} names no function",
            where=where,
            allowed=["module:function", "file.py:function"],
        )
    if source.endswith(".py"):
        admitted = _file_allowed(source, allow)
    else:
        admitted = within(source, (*OURS, *_modules(allow)))
    if not admitted:
        raise _not_admitted(spec, source, where)
    return source, name


def _check_origin(
    found: Any, path: str, where: str, allow: tuple[str, ...], home: str | None = None
) -> None:
    """Refuse an object that was made elsewhere than where its name leads."""
    origin = getattr(found, "__module__", None) or ""
    own = inspect.isroutine(found) or inspect.isclass(found)
    own = own and (origin == home or within(origin, (*OURS, *_modules(allow))))
    public = tuple(name.replace("keras.", "keras.src.", 1) for name in KERAS)
    keras_class = inspect.isclass(found) and within(origin, (*KERAS, *public))
    if not own and not keras_class:
        raise _not_admitted(path, origin or type(found).__module__, where)


def _not_admitted(path: str, module: str, where: str) -> ConfigurationError:
    return ConfigurationError(
        f"{path} is not code that a configuration may run",
        where=where,
        allowed=[f"{name}.*" for name in (*OURS, *KERAS)],
        remedy=admission(module),
    )


def _modules(allow: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(entry for entry in allow if not entry.endswith(".py"))


def _file_allowed(source: str, allow: tuple[str, ...]) -> bool:
    return any(
        Path(entry).resolve() == Path(source).resolve() for entry in allow if entry.endswith(".py")
    )


def _import(name: str, where: str) -> Any:
    if not name.startswith(("mpt.", "keras.")) and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # an installed command does not search where it is run
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigurationError(f"{name} cannot be imported: {error}", where=where) from error


def _import_file(source: str, where: str) -> Any:
    file = Path(source).resolve()
    if not file.is_file():
        raise ConfigurationError(f"there is no file {source}", where=where)
    name = f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))  # as for a script: its neighbours can be imported
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, ImportError | SyntaxError):
            raise ConfigurationError(
                f"{source} cannot be imported: {error}", where=where
            ) from error
        raise
    return module


def _argument(key: str, value: Any, where: str, allow: tuple[str, ...], *, users: bool) -> Any:
    if key == "function" and isinstance(value, str):
        return load_function(value, where=where, allow=allow)
    return resolve(value, where=where, allow=allow, users=users)


def _signature(target: Callable) -> inspect.Signature | None:
    try:
        return inspect.signature(target)
    except (TypeError, ValueError):
        return None


def _takes_any(signature: inspect.Signature) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())


def _checked(
    target: Callable,
    signature: inspect.Signature,
    given: dict[str, Any],
    where: str,
    partial: tuple[str, ...] = (),
) -> dict[str, Any]:
    """`given`, held against the signature's names and annotations; lists become tuples."""
    named = {
        name: parameter
        for name, parameter in signature.parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    checked = {}
    for key, value in given.items():
        if key not in named:
            if not _takes_any(signature):
                raise ConfigurationError(
                    f"unknown key {key!r}", where=f"{where}.{key}", allowed=named, value=key
                )
            checked[key] = value
            continue
        checked[key] = fits(value, annotation_of(target, named[key]), where=f"{where}.{key}")
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in checked and name not in partial:
            raise ConfigurationError(f"{where}.{name} must be given", where=f"{where}.{name}")
    return checked
