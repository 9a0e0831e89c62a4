"""Every override that Hydra refuses, where Hydra itself stops at the first: composed again without each, until it composes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from modelfactory.config.errors import ConfigError, Problem, nearest
from modelfactory.config.hydra_errors import NO_OPTION, complaint, list_for_group, mapping_for_group
from modelfactory.config.yaml_files import yaml_checked

_T = TypeVar("_T")
_REFUSALS = (HydraException, OmegaConfBaseException, ValueError, TypeError, RecursionError)
_NO_NAME = "Config group override must be a string"  # a ValueError of Hydra


class Refused(ConfigError):
    """Overrides that Hydra refuses, all of them.

    Attributes:
        rest: the config of the other overrides, for which a misspelt option of a group is the one that was meant. None where
            there is none, or where it is another than was meant, so that what is wrong with it tells nothing.
    """

    def __init__(self, problems: Iterable[Problem], rest: DictConfig | None = None):
        super().__init__(problems)
        self.rest = rest


def with_the_rest(error: ConfigError, check: Callable[[DictConfig], object]) -> ConfigError:
    """The error with what `check` finds wrong besides, in the config without the overrides that are refused."""
    if not isinstance(error, Refused) or error.rest is None:
        return error
    try:
        check(error.rest)
    except ConfigError as more:
        return ConfigError([*error.problems, *more.problems])
    return error


def telling_all(composing: Callable[[list[str]], _T]) -> Callable[[list[str]], _T]:
    """`composing`, which raises Refused with every override that is refused, where it would raise Hydra's error of the first.

    And ConfigError of a file that cannot be read, where it would raise that of the YAML library.
    """

    def compose_checked(overrides: list[str]) -> _T:
        with yaml_checked():
            return composing(overrides)

    def compose_or_tell(overrides: list[str]) -> _T:
        try:
            return compose_checked(overrides)
        except _REFUSALS as error:
            if isinstance(error, ConfigError) or not _is_refusal(error, overrides) or no_experiment_group(error):
                raise
            given = [_without_a_group(word) for word in overrides]
            if given != overrides:
                return compose_or_tell(given)
            raise _Search(overrides).told(error, compose_checked) from error

    return compose_or_tell


def no_experiment_group(error: Exception) -> bool:
    """Whether a config that has no group `experiment` is given one without a plus."""
    return "Could not override 'experiment'" in str(error)


def _is_refusal(error: Exception, overrides: Iterable[str]) -> bool:
    if isinstance(error, TypeError):  # Hydra's, of a list for a group that holds what is no text
        return any(_is_no_name(parsed) for word in overrides if (parsed := _parsed(word)) is not None)
    return not isinstance(error, ValueError) or isinstance(error, OmegaConfBaseException) or str(error).startswith(_NO_NAME)


def _is_no_name(override: Override) -> bool:
    """Whether a group is given anything but the name of a config of it, or a list of names."""
    value = override.value()
    named = isinstance(value, (str, dict)) or isinstance(value, list) and all(isinstance(name, str) for name in value)
    return not named and not override.is_sweep_override() and bool(_options(override.key_or_group))


def _without_a_group(word: str) -> str:
    """`group=none` for an override that gives null, false or off to a group that has a config `none`."""
    parsed = _parsed(word)
    if parsed is None or parsed.is_delete() or not (parsed.value() in (None, "off") or parsed.value() is False):
        return word
    return f"{word.partition('=')[0]}=none" if "none" in _options(parsed.key_or_group) else word


class _Search:
    """Overrides of which those that are refused are taken away one by one."""

    def __init__(self, overrides: Sequence[str]):
        self.words: dict[int, str] = dict(enumerate(overrides))
        self.problems: list[tuple[int, Problem]] = []
        self.unknown: list[str] = []  # paths of groups of which it is not known what was meant

    def told(self, error: Exception, composing: Callable[[list[str]], Any]) -> Refused:
        rest = None
        for _ in range(2 * len(self.words) + 1):  # an override may be corrected first, and refused all the same
            if not self._put_right(error):
                break
            try:
                rest = composing(list(self.words.values()))
                break
            except _REFUSALS as another:
                if isinstance(another, ConfigError) or not _is_refusal(another, self.words.values()):
                    break
                error = another
        in_order = [problem for _, problem in sorted(self.problems, key=lambda found: found[0])]
        return Refused(in_order, rest if isinstance(rest, DictConfig) and not self.unknown else None)

    def _put_right(self, error: Exception) -> bool:
        """Takes the override away that the error is about, or corrects it; whether one was found."""
        if no_experiment_group(error):
            for place, word in self.words.items():
                if word.startswith("experiment="):
                    self.words[place] = f"+{word}"
                    return True
        parsed = {place: parsed for place, word in self.words.items() if (parsed := _parsed(word)) is not None}
        place = self._refused(error, parsed)
        problem = complaint(error, _options)
        if place is None:
            if not self.unknown:
                self.problems.append((len(self.words), problem))
            return False
        word, override = self.words.pop(place), parsed.get(place)
        if override is None:
            key = word.partition("=")[0] if "=" in word else ""
            self.problems.append((place, Problem(key, f"{word!r} cannot be read: {problem.message}")))
            return True
        key = override.key_or_group
        options = _options(key)
        if not problem.path:
            problem = Problem(key, problem.message)
        if isinstance(override.value(), dict) and options:
            problem = mapping_for_group(key, options)
        elif isinstance(override.value(), list) and _is_no_name(override):
            problem = list_for_group(key, override.value(), options)
        if problem.path and any(not path or problem.path.startswith(f"{path}.") for path in self.unknown):
            return True  # it may well be a key of what was meant
        self.problems.append((place, problem))
        if options:
            wrong = found[2] if (found := NO_OPTION.search(str(error))) else ""
            meant = nearest(wrong, options) if wrong and not override.is_sweep_override() and override.value() == wrong else None
            if meant is None:
                self.unknown.append("" if key == "experiment" else key.replace("/", "."))
            else:
                head, _, _ = word.partition("=")
                self.words[place] = f"{head}={meant}"
                self.words = dict(sorted(self.words.items()))
        return True

    def _refused(self, error: Exception, parsed: dict[int, Override]) -> int | None:
        """Which of the overrides an error of Hydra is about."""
        text = str(error)
        if isinstance(error, OverrideParseException):
            unread = [place for place in self.words if place not in parsed]
            if unread:
                return unread[0]
        if found := NO_OPTION.search(text):
            group, name = found.groups()
            return next((p for p, o in parsed.items() if o.key_or_group == group and name in _names(o)), None)
        if text.startswith(_NO_NAME) or isinstance(error, TypeError):
            return next((p for p, o in parsed.items() if _is_no_name(o)), None)
        whole = [place for place in parsed if re.search(rf"(?<!\S)'?{re.escape(self.words[place])}'?(?!\S)", text)]
        named = [place for place, o in parsed.items() if re.search(rf"(?<![\w.]){re.escape(o.key_or_group)}(?!\w|\.\w)", text)]
        return next(iter(whole or sorted(named, key=lambda place: -len(parsed[place].key_or_group))), None)


def _parsed(word: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def _names(override: Override) -> list[Any]:
    value = override.value()
    return value if isinstance(value, list) else [value]


def _options(group: str) -> list[str]:
    """The configs of a group, none when it is no group."""
    known = GlobalHydra.instance()
    return known.config_loader().get_group_options(group) if known.is_initialized() else []
