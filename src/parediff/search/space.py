"""What a search may choose: keys of a run with their values, in the order in which they are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from parediff.config.catalogue import options
from parediff.errors import RequestError

METHOD = "method"
Params = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """One key with its distribution; `when` are the methods of which a run must have one, empty for every run."""

    key: str
    distribution: BaseDistribution
    when: tuple[str, ...]

    def applies(self, params: Mapping[str, Any]) -> bool:
        chosen = methods_in(params.get(METHOD))
        return not self.when or any(name in chosen for name in self.when)

    @property
    def ends(self) -> tuple[Any, Any]:
        """Its first and its last value."""
        if isinstance(self.distribution, CategoricalDistribution):
            return self.distribution.choices[0], self.distribution.choices[-1]
        assert isinstance(self.distribution, IntDistribution | FloatDistribution)
        return self.distribution.low, self.distribution.high

    @property
    def ends_or_all(self) -> tuple[Any, ...]:
        """Every value of a list, both ends of a range."""
        return tuple(self.distribution.choices) if isinstance(self.distribution, CategoricalDistribution) else self.ends

    def drawn(self, trial: Any) -> Any:
        """The value of one Optuna trial."""
        one = self.distribution
        if isinstance(one, CategoricalDistribution):
            return trial.suggest_categorical(self.key, one.choices)
        assert isinstance(one, IntDistribution | FloatDistribution)
        suggest = trial.suggest_int if isinstance(one, IntDistribution) else trial.suggest_float
        return suggest(self.key, one.low, one.high, step=one.step, log=one.log)

    def holds(self, value: Any) -> bool:
        """Whether it may give this value."""
        one = self.distribution
        if isinstance(one, CategoricalDistribution):
            return value in one.choices
        assert isinstance(one, IntDistribution | FloatDistribution)
        if isinstance(value, bool) or not isinstance(value, int | float) or not one.low <= value <= one.high:
            return False
        steps = (value - one.low) / one.step if one.step else 0.0
        whole = isinstance(value, int) or not isinstance(one, IntDistribution)
        return whole and abs(steps - round(steps)) < 1e-9

    def values_of(self, config: Mapping[str, Any], methods: Sequence[str]) -> list[Any]:
        """What the choice may have been in a finished run; empty where it cannot have been any."""
        if isinstance(self.distribution, CategoricalDistribution):
            if self.key == METHOD:
                return [one for one in self.distribution.choices if methods_in(one) == list(methods)]
            found = as_text(_at(config, self.key))
            if not options(self.key) and found in self.distribution.choices:
                return [found]
            return list(self.distribution.choices) if options(self.key) or self.key == "bits" else []
        value = _at(config, self.key)
        return [value] if self.holds(value) else []


@dataclass(frozen=True)
class Space:
    """All choices; the methods come first, because others depend on them."""

    choices: tuple[Choice, ...]

    @classmethod
    def of(cls, node: Any) -> Space:
        """From the `space` of a search's file; raises RequestError for what is none."""
        if not isinstance(node, Mapping) or not node:
            raise RequestError("search.space", node, "keys of a run, each with its values, are accepted")
        first = [_choice(METHOD, node[METHOD], ())] if METHOD in node else []
        known = [name for choice in first for chosen in choice.ends_or_all for name in methods_in(chosen)]
        others = [_choice(str(key), entry, known) for key, entry in node.items() if key != METHOD]
        return cls((*first, *others))

    def drawn(self, trial: Any) -> Params:
        """Values of one Optuna trial."""
        params: Params = {}
        for choice in self.choices:
            if choice.applies(params):
                params[choice.key] = choice.drawn(trial)
        return params

    def distributions(self, params: Mapping[str, Any]) -> dict[str, BaseDistribution]:
        return {choice.key: choice.distribution for choice in self.choices if choice.key in params}

    def corners(self) -> Iterator[Params]:
        """Points that between them name every list of methods and both ends of every key."""
        methods = next((choice for choice in self.choices if choice.key == METHOD), None)
        for chosen in methods.ends_or_all if methods else (None,):
            for end in (0, 1):
                params: Params = {} if chosen is None else {METHOD: chosen}
                others = [choice for choice in self.choices if choice.key != METHOD and choice.applies(params)]
                yield params | {choice.key: choice.ends[end] for choice in others}

    def found_in(self, config: Mapping[str, Any], methods: Sequence[str]) -> Iterator[Params]:
        """Every point that a finished run may have been."""
        found: list[list[tuple[str, Any]]] = []
        params: Params = {}
        for choice in self.choices:
            if not choice.applies(params):
                continue
            values = choice.values_of(config, methods)
            if choice.key == METHOD and values:
                params[METHOD] = values[0]
            found.append([(choice.key, value) for value in values])
        yield from (dict(point) for point in product(*found))

    def checked(self, params: Mapping[str, Any]) -> Params:
        """A point that is given by hand, its values as the space has them; RequestError where it lies outside."""
        given: Params = {}
        for key, value in params.items():
            choice = next((one for one in self.choices if one.key == key), None)
            if choice is None:
                known = ", ".join(one.key for one in self.choices)
                raise RequestError(f"search.first.{key}", value, f"a key of the space: {known}")
            given[key] = _within(choice, value)
        missing = [one.key for one in self.choices if one.applies(given) and one.key not in given]
        if missing:
            raise RequestError("search.first", dict(params), f"a point with a value for {missing[0]} too")
        return given


def overrides_of(params: Mapping[str, Any]) -> list[str]:
    """The overrides that ask for a point."""
    return [f"{key}={as_text(value)}" for key, value in params.items()]


def as_text(value: Any) -> str:
    """A value as an override writes it."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(as_text, value))}]"
    return {None: "null", True: "true", False: "false"}[value] if _is_word(value) else str(value)


def methods_in(text: Any) -> list[str]:
    """The methods of '[ptq,frdiff]'."""
    return [name.strip() for name in str(text or "").strip("[]").split(",") if name.strip()]


def _is_word(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _choice(key: str, entry: Any, known: Sequence[str]) -> Choice:
    described = dict(entry) if isinstance(entry, Mapping) else {"choose": entry}
    when = tuple(map(str, described.pop("when", ()))) or ((key.split(".")[1],) if key.startswith("methods.") else ())
    foreign = [name for name in when if name not in known]
    if foreign:
        raise RequestError(
            f"search.space.{key}", foreign[0], f"methods that space.method lists: {', '.join(dict.fromkeys(known))}"
        )
    try:
        return Choice(key, _distribution(described), when)
    except (TypeError, ValueError, KeyError) as error:
        accepted = "a list of values, or {from: …, to: …} with step or log, and when: [methods]"
        raise RequestError(f"search.space.{key}", entry, f"{accepted} ({' '.join(str(error).split())})") from error


def _distribution(entry: dict[str, Any]) -> BaseDistribution:
    if set(entry) == {"choose"}:
        return CategoricalDistribution([as_text(value) for value in _listed(entry["choose"])])
    unknown = set(entry) - {"from", "to", "step", "log"}
    if unknown:
        raise ValueError(f"no such word: {', '.join(sorted(unknown))}")
    low, high, log = entry["from"], entry["to"], bool(entry.get("log", False))
    if all(isinstance(end, int) and not isinstance(end, bool) for end in (low, high)):
        return IntDistribution(low, high, log=log, step=entry.get("step", 1))
    return FloatDistribution(float(low), float(high), log=log, step=entry.get("step"))


def _listed(values: Any) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise ValueError("a list with at least one value")
    return values


def _within(choice: Choice, value: Any) -> Any:
    given = as_text(value) if isinstance(choice.distribution, CategoricalDistribution) else value
    if not choice.holds(given):
        raise RequestError(f"search.first.{choice.key}", value, "a value of the space is accepted")
    return given


def _at(config: Any, key: str) -> Any:
    """The value of a dotted key; None where there is none."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config
