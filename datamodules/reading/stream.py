"""Training problems of a set that is too large to be read first: a bounded part of it is in memory at any time.

Shards come in an order of their own in every pass. Their rows are read in blocks, and the problems of a block are
shuffled among themselves. A block follows from where in the shards it begins, so that is all there is to save: a run
that goes on reads its block again and has the same problems in the same order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from vibethinker.datamodules.loaders import ENDLESS, permutation
from vibethinker.datamodules.reading.files import Reader, Row, RowError, Table, find_columns
from vibethinker.datamodules.reading.tables import Shard
from vibethinker.datamodules.reading.unusable import Unusable
from vibethinker.problems import Problem, normalized_prompt

_HEAD: Final = 1000  # rows of a shard that its columns are looked for in
_JUDGED: Final = 1000  # rows that a share of unusable ones says something about


class Stream:
    """A feed that reads shards as it goes, pass after pass.

    What cannot be used is counted as it passes, anew in each pass, and told at the end of one. More than the share that
    `reader.max_unusable` allows, of a thousand rows or of a pass, is an error. That two rows have the same id is not
    noticed.

    Args:
        shards: of the training split.
        reader: how their rows become problems.
        held_out: normalised prompts that are passed over.
        seed: seed of the shuffling.
        shuffle: whether shards and the problems of a block are shuffled.
        block: rows that are read together.
    """

    size = ENDLESS

    def __init__(
        self,
        shards: Sequence[Shard],
        reader: Reader,
        held_out: Collection[str] = (),
        *,
        seed: int = 0,
        shuffle: bool = True,
        block: int = 10_000,
    ) -> None:
        self.shards = shards
        self.reader = reader
        self.held_out = held_out
        self.seed = seed
        self.shuffle = shuffle
        self.block = block
        self.options = {"seed": seed, "shuffle": shuffle, "shuffle_buffer": block, "shards": len(shards)}
        self._columns: dict[str, dict[str, str]] = {}  # of each shard
        self._begin({"start": 0, "epoch": 0, "turn": 0, "used": 0, "found": 0, "passed_over": 0, "seen": 0, "why": {}})

    def take(self, batch: range, own: range) -> list[Problem]:
        self._reach(batch.start)
        self._saved = self._mark
        problems = []
        for place in own:
            self._reach(place)
            problems.append(self._problems[place - self._start])
        return problems

    def state_dict(self) -> dict[str, Any]:
        return dict(self._saved)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._begin(state)

    def _begin(self, state: Mapping[str, Any]) -> None:
        """Stand before the first row of a block."""
        self._start: int = state["start"]  # place of the block's first problem
        self._problems: list[Problem] = []
        self._epoch, self._turn, self._used = state["epoch"], state["turn"], state["used"]  # the next row
        self._found, self._passed_over = state["found"], state["passed_over"]  # problems, in this pass
        self._unusable = Unusable(self.reader.max_unusable, state["seen"], Counter(state["why"]))
        self._rows = self._read()
        self._saved = self._mark = dict(state)

    def _reach(self, place: int) -> None:
        """Read on until the problem at a place is in the block; one that went by needs the saved block again."""
        if place < self._start:
            self._begin(self._saved)
        while place >= self._start + len(self._problems):
            self._start += len(self._problems)
            self._mark = {
                **{"start": self._start, "epoch": self._epoch, "turn": self._turn, "used": self._used},
                **{"found": self._found, "passed_over": self._passed_over},
                **{"seen": self._unusable.seen, "why": dict(self._unusable.reasons)},
            }
            problems = self._next_block()
            order = permutation(len(problems), self.seed, self._start) if self.shuffle else range(len(problems))
            self._problems = [problems[i] for i in order]

    def _next_block(self) -> list[Problem]:
        """The problems in the next rows; a block ends with its pass."""
        count, problems = 0, []
        for row in islice(self._rows, self.block):
            count += 1
            if (problem := self._usable(row)) is not None:
                problems.append(problem)
        if count < self.block:
            self._end_pass()
        return problems

    def _read(self) -> Iterator[Row]:
        """The rows of this pass that are left."""
        order = permutation(len(self.shards), self.seed, self._epoch) if self.shuffle else range(len(self.shards))
        for shard in [self.shards[i] for i in order[self._turn :]]:
            table = Table(shard.name, shard.unit, ())
            if shard.name not in self._columns:
                self._columns[shard.name] = find_columns(shard.table(_HEAD), self.reader.fields)
            for number, raw in shard.rows(self._used):
                self._used += 1
                yield Row(table, self._columns[shard.name], number, raw)
            self._turn, self._used = self._turn + 1, 0

    def _end_pass(self) -> None:
        name, domains = self.reader.data, ", ".join(self.reader.domains)
        self._unusable.check(name)
        if not self._found:
            raise ValueError(f"{name}: no problem of {domains} to train on")
        if self._passed_over:
            from lightning.pytorch.utilities import rank_zero_warn

            rank_zero_warn(f"{name}: {self._passed_over} problems are left out because they are also held out")
        self._epoch, self._turn, self._used = self._epoch + 1, 0, 0
        self._found = self._passed_over = 0
        self._unusable = Unusable(self.reader.max_unusable)
        self._rows = self._read()

    def _usable(self, row: Row) -> Problem | None:
        try:
            _, problem = self.reader.problem(row)
            if problem is None:
                return None
            self._unusable.seen += 1
        except RowError as error:
            problem = None
            self._unusable.seen += 1
            self._unusable.add(error.reason, str(error))
            if self._unusable.seen >= _JUDGED and self._unusable.too_many:
                self._unusable.check(self.reader.data)
        if problem is not None and normalized_prompt(problem.prompt) in self.held_out:
            self._passed_over += 1
            return None
        self._found += problem is not None
        return problem
