"""What can vary in a supernet: dims, search spaces, architectures and populations of them.

A :class:`SearchSpace` is frozen data. It knows nothing of layers, devices or search; everything that handles many
architectures at once does so as a *population*, an integer array of shape ``(N, D)`` that holds, for each of the
``D`` dims, the index of the chosen value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ofa.errors import OfaError, shown, unknown_name_message
from ofa.files import parse_json

Value: TypeAlias = int | float | str
Population: TypeAlias = npt.NDArray[np.integer]

GENE_DTYPE = np.int16
MAX_VALUES = 1 << 15  # of a dim, whose numbers genes hold
MAX_LISTED = 1_000_000


class SpaceError(OfaError, ValueError):
    """An architecture, a dim or a population does not fit its search space."""


@dataclass(frozen=True)
class Dim:
    """One thing that can vary.

    Args:
        name: For example ``stage2.depth`` or ``resolution``.
        values: The choices, the cheapest first. Numbers must ascend strictly.
        requires: ``(parent, parent_values)``: the dim is active only where dim ``parent`` is itself active and takes
            one of ``parent_values``. ``None`` means always active.
        follows: Name of a dim that this one is coupled to: its value is the one as far along its values as the other's
            is along its own, so it is no choice of its own (CompOFA, arXiv:2104.12642, sec. 3).
        ordered: Whether values that stand side by side are alike, as numbers are. Otherwise they are categories, and
            each is as different from any other: unless told, where one of them is text.

    Raises:
        SpaceError: If there are no values, if values repeat, if numbers do not ascend, or if something is of another
            type than it says.
    """

    name: str
    values: tuple[Value, ...]
    requires: tuple[str, tuple[Value, ...]] | None = None
    follows: str | None = None
    ordered: bool | None = None

    def __post_init__(self) -> None:
        requires = (self.name, self.values) if self.requires is None else self.requires
        names = [self.name, requires[0], self.name if self.follows is None else self.follows]
        if not all(isinstance(name, str) for name in names):
            raise SpaceError(f"names of dims are text, not {shown(names)}")
        if not self.values:
            raise SpaceError(f"dim {self.name!r} has no values; give it at least one")
        for value in (*self.values, *requires[1]):
            if not _is_value(value):
                raise SpaceError(f"dim {self.name!r} cannot have value {shown(value)}; give it numbers or text")
        if len(set(self.values)) != len(self.values) or len(self.values) > MAX_VALUES:
            raise SpaceError(f"dim {self.name!r} repeats a value, or has too many: {shown(self.values)}")
        numbers = [value for value in self.values if not isinstance(value, str)]
        if numbers != sorted(numbers):
            raise SpaceError(f"dim {self.name!r} must list its values in ascending order, not {shown(self.values)}")
        if not isinstance(self.ordered, (bool, type(None))):
            raise SpaceError(f"dim {self.name!r} is ordered or not: True or False, not {shown(self.ordered)}")
        if self.ordered is None:
            object.__setattr__(self, "ordered", self._is_numeric)

    @property
    def _is_numeric(self) -> bool:
        return not any(isinstance(value, str) for value in self.values)

    def to_json(self) -> dict[str, Any]:
        """As JSON data; what is as it is unless told is left out."""
        return (
            {"name": self.name, "values": list(self.values)}
            | ({} if self.requires is None else {"requires": [self.requires[0], list(self.requires[1])]})
            | ({} if self.follows is None else {"follows": self.follows})
            | ({} if self.ordered == self._is_numeric else {"ordered": self.ordered})
        )

    def index(self, value: Value) -> int:
        """Position of ``value``; :class:`SpaceError` lists the choices if it is not one of them."""
        try:
            return self.values.index(value)
        except ValueError:
            raise SpaceError(f"dim {self.name!r} cannot be {value!r}; choices: {list(self.values)}") from None


def _is_value(value: Any) -> bool:
    """A finite number that a file can hold, or text."""
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return isinstance(value, str) or (is_number and bool(abs(value) < 1 << 63))


class Arch(Mapping[str, Value]):
    """One architecture: an immutable mapping from each *active* dim to its value.

    Being canonical (inactive dims are absent), two spellings of one network are equal and hash equal. Made by
    :meth:`SearchSpace.arch` and its kin; ``dict(arch)`` is JSON.
    """

    __slots__ = ("_hash", "_values")

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = dict(values)
        self._hash: int | None = None

    def __getitem__(self, name: str) -> Value:
        try:
            return self._values[name]
        except KeyError:
            raise SpaceError(unknown_name_message("or inactive dim", name, self._values)) from None

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(frozenset(self._values.items()))
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self._values == other._values if isinstance(other, Arch) else NotImplemented

    def __reduce__(self) -> tuple[type[Arch], tuple[dict[str, Value]]]:
        return Arch, (self._values,)  # without the hash: other processes hash strings otherwise

    def __repr__(self) -> str:
        return f"Arch({self._values})"

    def get(self, name: str, default: Any = None) -> Any:
        """The value of ``name``, or ``default`` where it is inactive or unknown."""
        return self._values.get(name, default)

    def to_json(self) -> str:
        """One line, dims in the order of the space."""
        return json.dumps(self._values, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: object) -> Arch:
        """The inverse of :meth:`to_json`, of no space yet; :class:`SpaceError` if it is something else."""
        try:
            values = parse_json(text) if isinstance(text, str) else None
        except ValueError:
            values = None
        if not isinstance(values, dict) or not all(map(_is_value, values.values())):
            raise SpaceError(f"an architecture is a JSON object of numbers and text, not {shown(text)}")
        return cls(values)


@dataclass(frozen=True)
class SearchSpace:
    """An ordered tuple of dims; parents stand before the dims that depend on them.

    Raises:
        SpaceError: If there are no dims, if names repeat, or a dim requires something that does not stand before it.
    """

    dims: tuple[Dim, ...]

    def __post_init__(self) -> None:
        if not self.dims:
            raise SpaceError("a space needs a dim at least")
        seen: dict[str, Dim] = {}
        for dim in self.dims:
            if dim.name in seen:
                raise SpaceError(f"dim {dim.name!r} stands twice in the space")
            if dim.requires is not None:
                parent, parent_values = dim.requires
                if parent not in seen:
                    raise SpaceError(f"dim {dim.name!r} requires {parent!r}, which must stand before it")
                if seen[parent].follows is not None:
                    raise SpaceError(
                        f"dim {dim.name!r} requires {parent!r}, which follows {seen[parent].follows!r}; let it require "
                        "that one"
                    )
                for value in parent_values:
                    seen[parent].index(value)
            if dim.follows is not None:
                if dim.follows not in seen:
                    raise SpaceError(f"dim {dim.name!r} follows {dim.follows!r}, which must stand before it")
                if seen[dim.follows].follows or seen[dim.follows].requires:
                    raise SpaceError(f"dim {dim.name!r} follows {dim.follows!r}, which must be free and always active")
            seen[dim.name] = dim

    # -- looking things up -------------------------------------------------------------------------------------------

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(dim.name for dim in self.dims)

    @cached_property
    def _column_of(self) -> dict[str, int]:
        return {name: column for column, name in enumerate(self.names)}

    def column(self, name: str) -> int:
        """Column of dim ``name`` in a population; :class:`SpaceError` lists the known dims."""
        try:
            return self._column_of[name]
        except KeyError:
            raise SpaceError(unknown_name_message("dim", name, self.names)) from None

    def __getitem__(self, name: str) -> Dim:
        return self.dims[self.column(name)]

    def __contains__(self, name: object) -> bool:
        return name in self._column_of

    def __len__(self) -> int:
        return len(self.dims)

    @cached_property
    def num_values(self) -> npt.NDArray[np.intp]:
        """Number of choices of each dim, shape ``(D,)``."""
        return np.array([len(dim.values) for dim in self.dims], dtype=np.intp)

    @cached_property
    def is_ordered(self) -> npt.NDArray[np.bool_]:
        """Which dims have values in an order, rather than categories, shape ``(D,)``."""
        return np.array([dim.ordered for dim in self.dims], dtype=np.bool_)

    @cached_property
    def _choices(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.integer]]:
        """Every value of every dim: its column, and its index."""
        genes = [np.arange(num, dtype=GENE_DTYPE) for num in self.num_values]
        return np.repeat(np.arange(len(self.dims)), self.num_values), np.concatenate(genes)

    @cached_property
    def _parents(self) -> tuple[tuple[int, npt.NDArray[np.bool_]] | None, ...]:
        """For each dim: its parent's column and which of the parent's value indices make it active."""
        parents: list[tuple[int, npt.NDArray[np.bool_]] | None] = []
        for dim in self.dims:
            if dim.requires is None:
                parents.append(None)
                continue
            parent, parent_values = dim.requires
            allowed = np.array([value in parent_values for value in self[parent].values])
            parents.append((self.column(parent), allowed))
        return tuple(parents)

    @cached_property
    def _followers(self) -> tuple[tuple[int, int, npt.NDArray[np.integer]], ...]:
        """For each dim that follows: its column, the other's, and its own index for each of the other's."""
        found = []
        for column, dim in enumerate(self.dims):
            if dim.follows is not None:
                num = len(self[dim.follows].values)
                indices = np.linspace(0, len(dim.values) - 1, num).round() if num > 1 else [len(dim.values) - 1]
                found.append((column, self.column(dim.follows), np.asarray(indices, dtype=GENE_DTYPE)))
        return tuple(found)

    @cached_property
    def num_archs(self) -> int:
        """Exact number of different architectures (an arbitrarily large integer)."""
        # Dims form a forest. Children stand after their parents, so one backward sweep multiplies each dim's
        # per-value counts into its parent's.
        counts = [[1] * len(dim.values) for dim in self.dims]
        total = 1
        for column in reversed(range(len(self.dims))):
            subtree = 1 if self.dims[column].follows else sum(counts[column])
            parent = self._parents[column]
            if parent is None:
                total *= subtree
            else:
                parent_column, allowed = parent
                for index in np.flatnonzero(allowed):
                    counts[parent_column][index] *= subtree
        return total

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change when any dim or value changes."""
        return hashlib.sha256(json.dumps(self.to_json()).encode()).hexdigest()[:12]

    # -- JSON --------------------------------------------------------------------------------------------------------

    def to_json(self) -> list[dict[str, Any]]:
        """The space as JSON data: one object per dim."""
        return [dim.to_json() for dim in self.dims]

    @classmethod
    def from_json(cls, data: Any) -> SearchSpace:
        """The inverse of :meth:`to_json`; :class:`SpaceError` if it is something else."""
        if not isinstance(data, (list, tuple)):
            raise SpaceError(f"a space is a list of dims, not {shown(data)}")
        return cls(tuple(map(_read_dim, data)))

    # -- single architectures ----------------------------------------------------------------------------------------

    def arch(self, values: Mapping[str, Value]) -> Arch:
        """Check a mapping from dims to values and make it an :class:`Arch`.

        Raises:
            SpaceError: If a dim is unknown, missing or inactive, or a value is not among the choices.
        """
        if not isinstance(values, Mapping):
            raise SpaceError(f"an architecture maps dims to values, and is not {shown(values)}")
        for name in values:
            self.column(name)
        genes = np.zeros((1, len(self.dims)), dtype=GENE_DTYPE)
        for column, dim in enumerate(self.dims):
            if dim.name in values:
                genes[0, column] = dim.index(values[dim.name])
        active = self.active(genes)[0]
        for column, dim in enumerate(self.dims):
            if active[column] and dim.name not in values:
                raise SpaceError(f"dim {dim.name!r} is missing; give it one of {list(dim.values)}")
            if not active[column] and dim.name in values:
                known = [self.names[other] for other in np.flatnonzero(active)]
                raise SpaceError(f"dim {dim.name!r} is inactive in this architecture; active dims: {', '.join(known)}")
        for column, other, indices in self._followers:
            dim, due = self.dims[column], indices[genes[0, other]]
            if active[column] and genes[0, column] != due:
                raise SpaceError(
                    f"dim {dim.name!r} follows {dim.follows!r} and must be {dim.values[due]!r} here, not "
                    f"{values[dim.name]!r}"
                )
        return self.to_archs(genes)[0]

    def largest(self) -> Arch:
        """Every dim at its last value."""
        return self.to_archs((self.num_values - 1).astype(GENE_DTYPE)[None])[0]

    def smallest(self) -> Arch:
        """Every dim at its first value."""
        return self.to_archs(np.zeros((1, len(self.dims)), dtype=GENE_DTYPE))[0]

    def sample(self, rng: np.random.Generator) -> Arch:
        """One random architecture; see :meth:`sample_population`."""
        return self.to_archs(self.sample_population(1, rng))[0]

    # -- populations -------------------------------------------------------------------------------------------------

    def to_population(self, archs: Arch | Sequence[Arch] | Population) -> Population:
        """Architectures as a canonical integer array.

        Args:
            archs: One architecture, a list of them, or an array ``(N, D)`` (checked, then made canonical).

        Returns:
            Value indices, shape ``(N, D)``; inactive dims are 0.
        """
        if isinstance(archs, np.ndarray):
            self._check(archs)
            return self.canonical(archs)
        if isinstance(archs, Arch):
            archs = [archs]
        population = np.zeros((len(archs), len(self.dims)), dtype=GENE_DTYPE)
        present = np.zeros(population.shape, dtype=np.bool_)
        for row, arch in enumerate(archs):
            for name, value in arch.items():
                column = self.column(name)
                population[row, column] = self.dims[column].index(value)
                present[row, column] = True
        misfits = (present != self.active(population)) | (population != self.canonical(population))
        for misfit in np.flatnonzero(misfits.any(axis=1)).tolist():
            self.arch(archs[misfit])  # of another space: says what is missing, inactive or coupled
        return population

    def to_archs(self, population: Population) -> list[Arch]:
        """The inverse of :meth:`to_population`."""
        self._check(population)
        population, active = self.canonical(population), self.active(population)
        return [
            Arch({dim.name: dim.values[gene] for dim, gene, on in zip(self.dims, row, mask, strict=True) if on})
            for row, mask in zip(population.tolist(), active.tolist(), strict=True)
        ]

    def _check(self, population: Population) -> None:
        if population.ndim != 2 or population.shape[1] != len(self.dims):
            raise SpaceError(f"a population of this space has shape (N, {len(self.dims)}), not {population.shape}")
        if not np.issubdtype(population.dtype, np.integer):
            raise SpaceError(f"a population holds integers, not {population.dtype}")
        if len(population) and (population.min() < 0 or (population.max(axis=0) >= self.num_values).any()):
            column = int(np.flatnonzero((population.min(axis=0) < 0) | (population.max(axis=0) >= self.num_values))[0])
            raise SpaceError(
                f"dim {self.names[column]!r} has indices outside 0..{self.num_values[column] - 1} in this population"
            )

    def active(self, population: Population) -> npt.NDArray[np.bool_]:
        """Which dims count in each architecture, shape ``(N, D)``."""
        # Columns are contiguous: every operation here and below works on one dim of all architectures.
        mask = np.ones((len(self.dims), len(population)), dtype=np.bool_)
        for column, parent in enumerate(self._parents):
            if parent is not None:
                parent_column, allowed = parent
                np.logical_and(mask[parent_column], allowed[population[:, parent_column]], out=mask[column])
        return mask.T

    def canonical(self, population: Population) -> Population:
        """Clear inactive dims to 0, and give those that follow their value, so that equal networks have equal rows."""
        if self._followers:
            population = population.copy()
            for column, other, indices in self._followers:
                population[:, column] = indices[population[:, other]]
        return population * self.active(population)

    # -- parts of the space ------------------------------------------------------------------------------------------

    def restrict(self, values: Mapping[str, Sequence[Value]]) -> SearchSpace:
        """The same dims with fewer choices; its architectures are architectures of this space.

        Args:
            values: Dim -> the choices that stay.

        Raises:
            SpaceError: If a dim is unknown or coupled, or a choice is not one of its own.
        """
        for dim in self.dims:
            if dim.follows is not None and not {dim.name, dim.follows}.isdisjoint(values):
                raise SpaceError(f"dims {dim.follows!r} and {dim.name!r} are coupled; neither can be restricted")
        for name, choices in values.items():
            for value in choices:
                self[name].index(value)
        kept = {name: tuple(choices) for name, choices in values.items()}
        dims = []
        for dim in self.dims:
            requires = dim.requires
            if requires is not None and requires[0] in kept:
                requires = (requires[0], tuple(value for value in requires[1] if value in kept[requires[0]]))
            dims.append(replace(dim, values=kept.get(dim.name, dim.values), requires=requires))
        return SearchSpace(tuple(dims))

    def only(self, arch: Mapping[str, Value]) -> SearchSpace:
        """The space of one architecture: the same dims with one value each, and those that are inactive for good."""
        chosen = self.arch(arch)
        dims = []
        for dim in self.dims:
            requires = dim.requires
            if requires is not None:
                parent, values = requires
                requires = (parent, tuple(value for value in values if parent in chosen and value == chosen[parent]))
            value = chosen[dim.name] if dim.name in chosen else dim.values[0]
            dims.append(replace(dim, values=(value,), requires=requires, follows=None))
        return SearchSpace(tuple(dims))

    def sample_population(self, num_archs: int, rng: np.random.Generator) -> Population:
        """Draw every dim uniformly and independently, then make the rows canonical; shape ``(num_archs, D)``.

        This is once-for-all's distribution (each depth equally likely), not the uniform one over distinct networks,
        which would draw the greatest depth nearly always.
        """
        return self.canonical(self._draw(num_archs, rng))

    def _draw(self, num_archs: int, rng: np.random.Generator) -> Population:
        columns = np.empty((len(self.dims), num_archs), dtype=GENE_DTYPE)
        for column, num in enumerate(self.num_values):
            columns[column] = rng.integers(num, size=num_archs, dtype=GENE_DTYPE)
        return columns.T

    def mutate(self, population: Population, rng: np.random.Generator, *, probability: float) -> Population:
        """Redraw each dim with ``probability``; a dim that becomes active thereby is drawn afresh."""
        drawn = self._draw(len(population), rng)
        redraw = probability > rng.random((len(self.dims), len(population)), dtype=np.float32).T
        return self.canonical(np.where(redraw | ~self.active(population), drawn, population))

    def crossover(self, mothers: Population, fathers: Population, rng: np.random.Generator) -> Population:
        """Uniform crossover: each dim from either parent, from the one in which it is active where only one has it."""
        in_mothers, in_fathers = self.active(mothers), self.active(fathers)
        coin = rng.random((len(self.dims), len(mothers)), dtype=np.float32).T < 0.5
        return self.canonical(np.where(in_mothers & (coin | ~in_fathers), mothers, fathers))

    def neighbours(self, population: Population) -> Population:
        """Architectures in which one dim of one of these takes another value, shape ``(K, D)``; some may be equal.

        Any other value, not only the adjacent ones: of categories none is nearer than another, and of a number that
        has an optimum the way there need not go up step by step.
        """
        columns, genes = (np.tile(each, len(population)) for each in self._choices)
        changed = np.repeat(population, len(self._choices[0]), axis=0)
        rows = np.arange(len(changed))
        is_new = changed[rows, columns] != genes
        changed[rows, columns] = genes
        return self.canonical(changed[is_new])

    def every(self) -> Population:
        """All architectures of a small space, in lexicographic order, shape ``(num_archs, D)``.

        Raises:
            SpaceError: If there are more than a million.
        """
        if self.num_archs > MAX_LISTED:
            raise SpaceError(
                f"this space holds {self.num_archs:.3g} architectures, too many to list ({MAX_LISTED:.3g})"
            )
        rows = np.zeros((1, len(self.dims)), dtype=GENE_DTYPE)
        for column, num in enumerate(self.num_values):
            is_free = self.active(rows)[:, column] & (self.dims[column].follows is None)
            counts = np.where(is_free, num, 1)
            starts = np.repeat(np.cumsum(counts) - counts, counts)
            rows = np.repeat(rows, counts, axis=0)
            rows[:, column] = np.arange(len(rows)) - starts
        return self.canonical(rows)

    def encode(self, archs: Arch | Sequence[Arch] | Population) -> npt.NDArray[np.float32]:
        """One-hot encoding with inactive dims all zero, shape ``(N, sum of the dims' number of values)``."""
        population = self.to_population(archs)
        columns, genes = self._choices
        is_chosen = (population.T[columns] == genes[:, None]) & self.active(population).T[columns]
        return is_chosen.astype(np.float32).T

    def row_keys(self, population: Population) -> npt.NDArray[np.void]:
        """One opaque comparable item per row, shape ``(N,)``: for ``np.unique`` and ``np.isin`` over architectures."""
        rows = np.ascontiguousarray(population, dtype=GENE_DTYPE)
        return rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()


def _read_dim(entry: Any) -> Dim:
    """An entry of :meth:`SearchSpace.to_json`; :class:`Dim` checks what is in it."""
    match entry:
        case {"name": _, "values": [*_], **others} if others.keys() <= {"requires", "follows", "ordered"}:
            name, values = entry["name"], tuple(entry["values"])
            follows, ordered = entry.get("follows"), entry.get("ordered")
            match entry.get("requires"):
                case None:
                    return Dim(name, values, None, follows, ordered)
                case [_, [*_]]:
                    parent, allowed = entry["requires"]
                    return Dim(name, values, (parent, tuple(allowed)), follows, ordered)
    raise SpaceError(
        "a dim needs 'name' and 'values' (a list) and may have 'requires' (a dim and a list of its values), 'follows' "
        f"and 'ordered', but this is {shown(entry)}"
    )
