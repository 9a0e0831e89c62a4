"""Reading the YAML files of a config for Hydra: what is wrong with one is told with its file and line.

Hydra reads every file by `OmegaConf.load`. While `yaml_checked` runs it reads by `load_yaml` instead, which looks at a file's
nodes before anything is made of them: aliases that make millions of values of a few lines never become values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, wraps
from pathlib import Path
from typing import IO, Any

import hydra
import yaml
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.core_plugins import file_config_source, importlib_resources_config_source
from hydra._internal.defaults_list import _create_defaults_tree_impl
from hydra._internal.sources_registry import SourcesRegistry
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.basecontainer import get_yaml_loader  # pyright: ignore[reportPrivateImportUsage] (another home in each version)
from omegaconf.errors import OmegaConfBaseException

from modelfactory.config.errors import ConfigError, Problem, first_line

_HYDRA = Path(hydra.__file__).parent

MAX_REPEATED = 10_000  # values that the aliases of one file may add to those that are written
MAX_CONFIGS = 2_000  # configs that the defaults lists of one config may name, each as often as it is named
_NAMED = frozenset({"layers", "rules", "groups"})  # what is in these has names of the user's own choice
_TEXT, _MERGE, _NULL = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "merge", "null"))


@contextmanager
def yaml_checked() -> Iterator[None]:
    """Compose under this, one config: what is wrong with a file is a ConfigError.

    Raises:
        ConfigError: a file that is no YAML, no mapping or no text, or cannot be opened, or defaults lists that lead in a circle.
    """
    files = _Files()
    with ExitStack() as stack:
        for module in (file_config_source, importlib_resources_config_source):
            stack.enter_context(replaced(module, "OmegaConf", files.reader))
        for source in map(SourcesRegistry.instance().resolve, ("file", "pkg")):  # Hydra executes their modules twice: not those imported
            stack.enter_context(replaced(source, "load_config", _naming_the_file(source.load_config)))
        stack.enter_context(replaced(CachingConfigRepository, "load_config", files.looked_up(CachingConfigRepository.load_config)))
        for read in (ConfigRepository._extract_defaults_list, ConfigRepository._create_defaults_list):
            stack.enter_context(replaced(ConfigRepository, read.__name__, _naming_the_config(read)))
        try:
            yield
        except RecursionError as error:
            raise ConfigError([_circle(error)]) from error


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Puts `value` in the place of an attribute of a class or a module while the block runs.

    Raises:
        KeyError: there is no such attribute: this Hydra is another than the patch is for.

    Example:
        >>> with replaced(yaml, "YAMLError", None):
        ...     print(yaml.YAMLError)
        None
    """
    kept = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)


class _Files:
    """The files that one config is composed of."""

    def __init__(self) -> None:
        self._primary_is_read = False
        self._named = 0

    @property
    def reader(self) -> type[OmegaConf]:
        """OmegaConf, with a `load` that reads one of these files."""
        return type("CheckedOmegaConf", (OmegaConf,), {"load": staticmethod(self._load)})

    def _load(self, file: IO[Any]) -> DictConfig:
        loaded = load_yaml(file)
        if Path(str(file.name)).is_relative_to(_HYDRA):  # its own: some are empty
            return loaded
        if not self._primary_is_read and not loaded:
            say = "is empty; a config has a defaults list, such as defaults: [config, _self_], or keys of its own"
            raise ConfigError([Problem(str(file.name), say)])
        self._primary_is_read = True
        return loaded

    def looked_up(self, load: Callable[..., Any]) -> Callable[..., Any]:
        """Hydra's look-up of one config, which ends when there were too many."""

        @wraps(load)
        def load_config(repository: Any, config_path: str) -> Any:
            self._named += 1
            if self._named > MAX_CONFIGS:
                say = f"the defaults lists name more than {MAX_CONFIGS:,} configs ({config_path} among the last); name each once"
                raise ConfigError([Problem("defaults", say)])
            return load(repository, config_path)

        return load_config


def _naming_the_config(read: Callable[..., Any]) -> Callable[..., Any]:
    """Hydra's reading of a defaults list, which tells the config where Hydra raises an error without it."""

    @wraps(read)
    def read_defaults(repository: Any, config_path: str, found: Any) -> Any:
        try:
            return read(repository, config_path, found)
        except (ValueError, AssertionError) as error:
            unsaid = "an entry is neither the name of a config nor {group: name}"
            said = unsaid if isinstance(error, AssertionError) else str(error).removeprefix(f"In {config_path}: ")
            raise ConfigError([Problem(f"{config_path}.defaults", said)]) from error

    return read_defaults


def _naming_the_file(load: Callable[..., Any]) -> Callable[..., Any]:
    """A source's `load_config`, which tells the file where Hydra raises an error without it."""

    @wraps(load)
    def load_config(source: Any, config_path: str) -> Any:
        path = f"{str(source.path).removeprefix('file://')}/{source._normalize_file_name(config_path)}"
        try:
            return load(source, config_path)
        except UnicodeDecodeError as error:
            raise ConfigError([Problem(path, f"is not UTF-8 text: {error.reason} at byte {error.start}")]) from error
        except OSError as error:
            if isinstance(error, HydraException):
                raise
            raise ConfigError([Problem(path, f"cannot be read: {error.strerror or first_line(error)}")]) from error

    return load_config


def load_yaml(file: IO[Any]) -> DictConfig:
    """The mapping in a YAML file, in which the names of layers, rules and groups are texts as they are written.

    Raises:
        ConfigError: it does not parse, is no mapping, gives a key twice, holds what is no plain data, or its aliases repeat more
            than `MAX_REPEATED` values.

    Example:
        >>> import io
        >>> dict(load_yaml(io.StringIO("layers: {off: 1, 010: 2}"))["layers"])
        {'off': 1, '010': 2}
        >>> load_yaml(io.StringIO("x: [1, 2"))
        Traceback (most recent call last):
        modelfactory.config.errors.ConfigError: a config, line 1: while parsing a flow sequence: expected ',' or ']', but got '<stream end>'
    """
    where, root, text = str(getattr(file, "name", "a config")), None, file.read()
    try:
        loader = _loader()(text)
        try:
            root = loader.get_single_node()
            if root is None:
                return OmegaConf.create()
            _Nodes(where).check(root)
            values: dict[Any, Any] = loader.construct_document(root)
            return OmegaConf.create(values)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_unparsed(_in_the_words_of_pyyaml(error, text), where)]) from error
    except yaml.YAMLError as error:
        raise ConfigError([Problem(where, "; ".join(line.strip() for line in str(error).splitlines()[:1]))]) from error
    except RecursionError as error:
        raise ConfigError([Problem(where, "is nested too deeply")]) from error
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", None) or "")
        line = _line_of(root, key) if root is not None else None
        said = f"{key}: {first_line(error)}" if key else first_line(error)
        raise ConfigError([Problem(where if line is None else f"{where}, line {line}", said)]) from error
    except ValueError as error:  # of a constructor, such as a whole number of 5000 digits
        if isinstance(error, ConfigError):
            raise
        raise ConfigError([Problem(where, first_line(error))]) from error


@cache
def _loader() -> Any:
    return get_yaml_loader()


def _in_the_words_of_pyyaml(error: yaml.MarkedYAMLError, text: str | bytes) -> yaml.MarkedYAMLError:
    """What PyYAML's own parser says of the text: that of libyaml, which newer releases of OmegaConf read by, says less."""
    try:
        for _ in yaml.parse(text, Loader=yaml.SafeLoader):
            pass
    except yaml.MarkedYAMLError as said:
        return said
    return error  # of a value, not of the text


def _unparsed(error: yaml.MarkedYAMLError, where: str) -> Problem:
    """What YAML says, with the line where it began what it could not read, and that where it found out."""
    begin, end = error.context_mark or error.problem_mark, error.problem_mark or error.context_mark
    said = ": ".join(part for part in (error.context, error.problem) if part)
    if begin is None or end is None:
        return Problem(where, said)
    if end.line != begin.line:
        said += f" in line {end.line + 1}"
    if "'\\t'" in said:
        said += "; indent with spaces, not tabs"
    return Problem(f"{where}, line {begin.line + 1}", said)


@dataclass
class _Nodes:
    """A look at the nodes of one file.

    Attributes:
        sizes: by `id`, how many values a node makes.
        open: those that the node looked at is inside of.
        repeated: how many values aliases have added so far.
    """

    where: str
    sizes: dict[int, int] = field(default_factory=dict)
    open: set[int] = field(default_factory=set)
    repeated: int = 0

    def check(self, root: yaml.Node) -> None:
        if not isinstance(root, yaml.MappingNode):
            what = "a list" if isinstance(root, yaml.SequenceNode) else f"{root.value!r}"
            self._fail(root, f"holds {what}; a config is a mapping, a line each, such as seed: 0")
        self._size(root)

    def _fail(self, node: yaml.Node, message: str) -> None:
        raise ConfigError([Problem(f"{self.where}, line {node.start_mark.line + 1}", message)])

    def _size(self, node: yaml.Node, in_arguments: bool = False) -> int:
        """How many values a node makes; the arguments of a class are its own, with keys of any kind."""
        known = self.sizes.get(id(node))
        if known is not None:
            self.repeated += known
            if self.repeated > MAX_REPEATED:
                self._fail(node, f"aliases (*name) repeat more than {MAX_REPEATED:,} values, those that this anchor begins among them")
            return known
        if id(node) in self.open:
            self._fail(node, "holds an alias (*name) of itself, and so has no end")
        self.open.add(id(node))
        size = 1
        if isinstance(node, yaml.MappingNode):
            size += self._mapping(node, in_arguments)
        elif isinstance(node, yaml.SequenceNode):
            size += sum(self._size(item, in_arguments) for item in node.value)
        self.open.discard(id(node))
        self.sizes[id(node)] = size
        return size

    def _mapping(self, node: yaml.MappingNode, in_arguments: bool) -> int:
        first: dict[tuple[str, Any], int] = {}
        is_target = any(key.value == "_target_" for key, _ in node.value)
        size = 0
        for key, value in node.value:
            name = (key.tag, key.value if isinstance(key, yaml.ScalarNode) else id(key))
            if name in first and key.tag != _MERGE:
                self._fail(key, f"{key.value} is given twice, first in line {first[name]}")
            first.setdefault(name, key.start_mark.line + 1)
            named = isinstance(key, yaml.ScalarNode) and key.value in _NAMED and not in_arguments
            if key.tag == _NULL:
                self._fail(key, f"the key {key.value!r} is read as null, which is no key; put it in quotes")
            if named and isinstance(value, yaml.MappingNode):
                _name_by_text(value)
            size += self._size(value, in_arguments or is_target and not named and key.value != "shortcut")
        return size


def _name_by_text(node: yaml.MappingNode) -> None:
    """Makes names that YAML would read as numbers, booleans or null (`0`, `off`) the texts that are written."""
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
            key.tag = _TEXT


def _line_of(node: yaml.Node, key: str) -> int | None:
    """The line of the value with this full key, such as `a.b[1]`, as far as the key can be followed."""
    line = None
    for part in filter(None, re.split(r"[.\[\]]", key)):
        if isinstance(node, yaml.MappingNode):
            found = next((pair for pair in node.value if pair[0].value == part), None)
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            found = (node.value[int(part)],) * 2
        else:
            found = None
        if found is None:
            return line
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def _circle(error: RecursionError) -> Problem:
    """The configs whose defaults lists name each other, as the calls tell that were too deep."""
    chain, step = [], error.__traceback__
    while step is not None:
        if step.tb_frame.f_code is _create_defaults_tree_impl.__code__:
            chain.append(str(step.tb_frame.f_locals["root"].node.get_config_path()))
        step = step.tb_next
    last = len(chain) - 1
    first = next((place for place in range(last - 1, -1, -1) if chain[place] == chain[last]), None)
    if first is None:
        return Problem("", "the config is nested too deeply")
    return Problem("defaults", f"the defaults lists lead in a circle: {' -> '.join(chain[first:])}")
