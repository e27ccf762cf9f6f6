"""Training problems of a data set that is too large to be read first: a bounded part of it is in memory at any time.

Each epoch has its own order of shards. Their rows are read in blocks, and the problems of a block are shuffled among
themselves. A block follows from its first row, so that row is all there is to save: a resumed run reads its block again
and has the same problems in the same order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from itertools import islice
from typing import Any, Final

from vibethinker.datamodules.loaders import ENDLESS, permutation
from vibethinker.datamodules.reading.fields import Row, RowError, find_columns
from vibethinker.datamodules.reading.problem_files import Reader
from vibethinker.datamodules.reading.tables import Table
from vibethinker.datamodules.reading.unusable import Unusable
from vibethinker.problems import Problem, normalized_prompt

_HEAD: Final = 1000  # rows of a shard that decide its columns
_ENOUGH: Final = 1000  # rows before a fraction of unusable ones is an error within an epoch


@dataclass
class _Cursor:
    """Position before the first row of a block, and counts of its epoch."""

    start: int = 0  # index in the stream of the block's first problem
    epoch: int = 0
    shard: int = 0  # index in the order of this epoch
    row: int = 0  # rows of this shard that have been read
    found: int = 0  # problems of this epoch
    held_out: int = 0  # problems of this epoch that are left out because they are held out
    seen: int = 0  # rows of this epoch, usable or not
    reasons: dict[str, int] = field(default_factory=dict)  # unusable rows of this epoch by reason


@dataclass(eq=False)
class ProblemStream:
    """An endless stream that reads shards epoch after epoch.

    Unusable rows are counted anew in each epoch and reported at its end. A larger fraction than `reader.max_unusable`,
    of the first thousand rows or more or of an epoch, is an error. Two rows with the same id are not noticed.

    Args:
        shards: of the training split.
        reader: turns their rows into problems.
        held_out: normalised prompts of problems that are left out.
        seed: seed of the shuffling.
        shuffle: shuffle the shards, and the problems of each block.
        block: rows that are read together.
    """

    shards: Sequence[Table]
    reader: Reader
    held_out: Collection[str] = ()
    _: KW_ONLY
    seed: int = 0
    shuffle: bool = True
    block: int = 10_000

    def __post_init__(self) -> None:
        self.size = ENDLESS
        numbers = {"shuffle_buffer": self.block, "shards": len(self.shards)}
        self.options: dict[str, Any] = {"seed": self.seed, "shuffle": self.shuffle, **numbers}
        self._columns: dict[str, dict[str, str]] = {}  # of each shard
        self._begin(_Cursor())

    def take(self, batch: range, own: range) -> list[Problem]:
        """The problems at the indices `own` of the batch at the indices `batch`; see `TrainStream`."""
        self._reach(batch.start)
        self._saved = self._block_start
        problems = []
        for index in own:
            self._reach(index)
            problems.append(self._problems[index - self._block_start.start])
        return problems

    def state_dict(self) -> dict[str, Any]:
        """Position before the block that the last batch began in."""
        return asdict(self._saved)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a saved position.

        Raises:
            ValueError: an older version saved it.
        """
        if state.keys() != asdict(_Cursor()).keys():
            raise ValueError("streaming: an older version saved this position in the training data; start a new run")
        self._begin(_Cursor(**state))

    def _begin(self, cursor: _Cursor) -> None:
        self._saved = self._block_start = cursor
        self._next = replace(cursor)  # the next row to read
        self._problems: list[Problem] = []  # of the block
        self._unusable = Unusable(self.reader.max_unusable, cursor.seen, Counter(cursor.reasons))
        self._rows = self._read()

    def _reach(self, index: int) -> None:
        """Reads blocks until one has the problem at an index; for an earlier one, from the saved block on."""
        if index < self._block_start.start:
            self._begin(self._saved)
        while index >= self._block_start.start + len(self._problems):
            self._next.start += len(self._problems)
            self._block_start = replace(self._next, seen=self._unusable.seen, reasons=dict(self._unusable.reasons))
            problems = self._next_block()
            self._problems = [problems[i] for i in self._order(len(problems), self._block_start.start)]

    def _order(self, count: int, number: int) -> Sequence[int]:
        return permutation(count, self.seed, number).tolist() if self.shuffle else range(count)

    def _next_block(self) -> list[Problem]:
        """The problems of the next rows; a block ends with its epoch."""
        count, problems = 0, []
        for row in islice(self._rows, self.block):
            count += 1
            if (problem := self._usable(row)) is not None:
                problems.append(problem)
        if count < self.block:
            self._end_epoch()
        return problems

    def _read(self) -> Iterator[Row]:
        """The remaining rows of this epoch."""
        order = self._order(len(self.shards), self._next.epoch)
        for shard in [self.shards[i] for i in order[self._next.shard :]]:
            if shard.name not in self._columns:
                self._columns[shard.name] = find_columns(shard.head(_HEAD), self.reader.fields)
            for number, raw in shard.rows(self._next.row):
                self._next.row += 1
                yield Row(shard, self._columns[shard.name], number, raw)
            self._next.shard, self._next.row = self._next.shard + 1, 0

    def _end_epoch(self) -> None:
        name, domains = self.reader.data, ", ".join(self.reader.domains)
        self._unusable.check(name)
        if not self._next.found:
            raise ValueError(f"{name}: no problem of {domains} to train on")
        if self._next.held_out:
            from lightning.pytorch.utilities import rank_zero_warn  # takes seconds to import

            rank_zero_warn(f"{name}: {self._next.held_out} problems are left out because they are also held out")
        self._next = _Cursor(start=self._next.start, epoch=self._next.epoch + 1)
        self._unusable = Unusable(self.reader.max_unusable)
        self._rows = self._read()

    def _usable(self, row: Row) -> Problem | None:
        try:
            _, problem = self.reader.problem(row)
            if problem is None:
                return None
            self._unusable.seen += 1
        except RowError as error:
            self._unusable.seen += 1
            self._unusable.add(error.reason, str(error))
            if self._unusable.seen >= _ENOUGH and self._unusable.too_many:
                self._unusable.check(self.reader.data)
            return None
        if normalized_prompt(problem.prompt) in self.held_out:
            self._next.held_out += 1
            return None
        self._next.found += 1
        return problem
