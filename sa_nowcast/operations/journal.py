"""What a service has done: one SQLite file, so that a process that is killed at any moment leaves it whole.

An entry is made after what it tells of is on the disk. So what is done twice after a crash gives the same again, and
nothing is told of that is not there.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_TABLES: Final = """
create table if not exists files (key text primary key, outcome text, reason text, at real);
create table if not exists frames (time integer primary key, file text, arrived real, accepted real);
create table if not exists forecasts (init integer primary key, as_of text, published real, latency real, flags text);
create table if not exists expired (init integer primary key);
create table if not exists gaps (init integer primary key, filled text, lacking text, begun integer);
create table if not exists scores (init integer, lead integer, sums text, primary key (init, lead));
create table if not exists facts (name text primary key, value text);
"""


@dataclass(frozen=True)
class Gaps:
    """What a forecast was made without.

    Attributes
    ----------
    filled : list of int
        Times of its history that were filled.
    lacking : list of int
        Those, and others that might have told how.
    begun : bool
        Whether it is being made anew.
    """

    filled: list[int]
    lacking: list[int]
    begun: bool


class Journal:
    """The journal of a service; times are nanoseconds since 1970."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=full")
        self._db.executescript(_TABLES)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._db.execute(query, values).fetchall()

    # Files

    def knows(self, key: str) -> bool:
        """Say whether a file, as it is now, was dealt with."""
        return bool(self._rows("select 1 from files where key = ?", key))

    def file(self, key: str, outcome: str, reason: str, at: float) -> None:
        """Note what became of a file."""
        self._db.execute("insert or replace into files values (?, ?, ?, ?)", (key, outcome, reason, at))

    def outcomes(self) -> dict[tuple[str, str], int]:
        """Return how many files had which outcome and reason."""
        rows = self._rows("select outcome, reason, count(*) from files group by outcome, reason")
        return {(outcome, reason): count for outcome, reason, count in rows}

    # Frames

    def frame(self, time: int, file: str, arrived: float, accepted: float) -> None:
        """Note a frame that is in the store."""
        self._db.execute("insert or replace into frames values (?, ?, ?, ?)", (time, file, arrived, accepted))

    def frames(self, since: int | None = None) -> list[int]:
        """Return the times of the frames, ascending."""
        return [t for (t,) in self._rows("select time from frames where time >= ? order by time", since or -(2**63))]

    def arrival(self, times: Iterable[int]) -> float:
        """Return when the last of some frames arrived, in seconds since 1970."""
        found = [a for t in times for (a,) in self._rows("select arrived from frames where time = ?", t)]
        return max(found, default=0.0)

    # Forecasts

    def forecast(
        self, init: int, as_of: str, published: float, latency: float, flags: Any,
        filled: Sequence[int] = (), lacking: Sequence[int] = (),
    ) -> None:  # fmt: skip
        """Note a forecast that is published, in place of an earlier one; `filled` and `lacking` as in `Gaps`."""
        self._db.execute("begin")
        values = (init, as_of, published, latency, json.dumps(flags))
        self._db.execute("insert or replace into forecasts values (?, ?, ?, ?, ?)", values)
        self._db.execute("delete from gaps where init = ?", (init,))
        if filled:
            told = (init, json.dumps(list(filled)), json.dumps(list(lacking)), 0)
            self._db.execute("insert into gaps values (?, ?, ?, ?)", told)
        self._db.execute("commit")

    def gaps(self) -> dict[int, Gaps]:
        """Return the forecasts whose histories were filled, by init time."""
        rows = self._rows("select init, filled, lacking, begun from gaps order by init")
        return {init: Gaps(json.loads(f), json.loads(lacking), bool(b)) for init, f, lacking, b in rows}

    def begin_anew(self, init: int) -> None:
        """Note that a forecast is being made anew, and forget its scores."""
        self._db.execute("begin")
        self._db.execute("update gaps set begun = 1 where init = ?", (init,))
        self._db.execute("delete from scores where init = ?", (init,))
        self._db.execute("commit")

    def as_of(self, init: int) -> str | None:
        """Return when a forecast was made; None where there is none."""
        return next((str(found) for (found,) in self._rows("select as_of from forecasts where init = ?", init)), None)

    def forecasts(self, since: int | None = None) -> list[int]:
        """Return the init times of the forecasts, ascending."""
        return [i for (i,) in self._rows("select init from forecasts where init >= ? order by init", since or -(2**63))]

    def flags(self, until: int) -> list[tuple[int, Any]]:
        """Return init times up to one, ascending, with what was exceeded in them."""
        rows = self._rows("select init, flags from forecasts where init <= ? order by init", until)
        return [(init, json.loads(flags)) for init, flags in rows]

    def latencies(self) -> list[float]:
        """Return the latencies of all forecasts, in seconds."""
        return [v for (v,) in self._rows("select latency from forecasts")]

    def expire(self, init: int) -> None:
        """Note an init time whose frames came too late."""
        self._db.execute("insert or ignore into expired values (?)", (init,))

    def expired(self) -> set[int]:
        """Return the init times whose frames came too late."""
        return {i for (i,) in self._rows("select init from expired")}

    # Scores

    def score(self, init: int, lead: int, sums: Any) -> None:
        """Note the sums of a pair of init time and lead time."""
        self._db.execute("insert or replace into scores values (?, ?, ?)", (init, lead, json.dumps(sums)))

    def scores(self, since: int) -> list[tuple[int, int, Any]]:
        """Return the pairs from an init time on, by init time and lead time, with their sums."""
        rows = self._rows("select init, lead, sums from scores where init >= ? order by init, lead", since)
        return [(init, lead, json.loads(sums)) for init, lead, sums in rows]

    # Facts

    def fact(self, name: str, default: Any) -> Any:
        """Return what is kept under a name; where nothing is, keep `default`."""
        found = self._rows("select value from facts where name = ?", name)
        if found:
            return json.loads(found[0][0])
        self.keep(name, default)
        return default

    def keep(self, name: str, value: Any) -> None:
        """Keep a value under a name."""
        self._db.execute("insert or replace into facts values (?, ?)", (name, json.dumps(value)))

    def forget(self, frames_before: int, before: int, files_before: float, scores_before: int) -> None:
        """Remove frames and init times before some times, files dealt with before a moment, and older scores."""
        self._db.execute("delete from frames where time < ?", (frames_before,))
        for table in ("forecasts", "expired", "gaps"):
            self._db.execute(f"delete from {table} where init < ?", (before,))
        self._db.execute("delete from scores where init < ?", (scores_before,))
        self._db.execute("delete from files where at < ?", (files_before,))
