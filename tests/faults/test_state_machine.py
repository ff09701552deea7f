"""Any order of converting, appending, training, forecasting, scoring, being killed, going on, and damage to files.

Beside the files goes a model in memory of what stands there: what each output was made of, what may have been begun,
and which files were damaged since. Every stage must end as the model says: with the bits of a run that nothing happened
to, or with the demanded error. Nothing else may change, and nothing else may be left.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from mutations import KINDS, change
from nursery import End, Nursery
from points import Fault, content, names_of
from sequences import rain

import sa_nowcast
from sa_nowcast.errors import DataError, ModelError
from sa_nowcast.training.checkpoint import LAST, PREVIOUS, newest_valid

DATA, MODEL, STORAGE, RECIPE = 3, 4, 5, 2
HISTORY, STEPS = 2, 2
FIRST, MORE, MOST = 11, 4, 15
STORE, BUNDLE, ARCHIVE, RUN = "store.zarr", "model.nowcaster", "archive.zarr", "run"
BESIDE: Final = {
    STORE: ["store.zarr.partial", "store.zarr.partial.journal", "store.zarr.partial.lock"],
    ARCHIVE: ["archive.zarr.partial", "archive.zarr.partial.journal", "archive.zarr.partial.lock"],
}
ANYWHEN = st.none() | st.floats(0, 1, exclude_max=True)
"""At which of the changes of the disk a stage is killed; None: it is not."""

Key = Any
Bytes = dict[str, bytes]


def held(place: Path) -> Bytes:
    """What a folder holds, but for the model card, which says how long the training took."""
    return {name: whole for name, whole in content(place).items() if name != "README.md"}


class Unbroken:
    """What stages give to which nothing happens, and how many changes of the disk they take."""

    def __init__(self, nursery: Nursery, folder: Path) -> None:
        self.nursery, self.folder = nursery, folder
        self.values: dict[tuple[str, Key], Any] = {}
        self.bytes: dict[tuple[str, Key], Bytes] = {}
        self.points: dict[tuple[str, Key], int] = {}

    def _do(self, name: str, key: Key, place: Path, job: str, *args: Any) -> None:
        if (name, key) not in self.points:
            end = self.nursery.well(job, str(place), *args, fault=Fault(str(place)))
            self.values[name, key], self.points[name, key] = end.value, len(end.points)
            self.bytes[name, key] = held(place / name)

    def store(self, frames: int) -> Bytes:
        place = self.folder / f"{frames}"
        place.mkdir(exist_ok=True)
        self._do(STORE, frames, place, "stage_convert", frames, "refuse")
        np.testing.assert_array_equal(sa_nowcast.open_zarr(place / STORE).rain, rain(frames, 8, 8))
        return self.bytes[STORE, frames]

    def model(self, frames: int) -> Bytes:
        self.store(frames)
        self._do(BUNDLE, frames, self.folder / f"{frames}", "stage_train")
        return self.bytes[BUNDLE, frames]

    def archive(self, frames: int, trained_on: int) -> Bytes:
        self.store(frames), self.model(trained_on)
        place = self.folder / f"{frames} by {trained_on}"
        if not place.exists():
            place.mkdir()
            shutil.copytree(self.folder / f"{frames}" / STORE, place / STORE)
            shutil.copytree(self.folder / f"{trained_on}" / BUNDLE, place / BUNDLE)
        self._do(ARCHIVE, (frames, trained_on), place, "stage_hindcast", "resume")
        init_times, values = self.values[ARCHIVE, (frames, trained_on)]
        # One by one, in batches of one: other sums in the last bits.
        data, nowcaster = rain(frames, 8, 8), sa_nowcast.load(str(place / BUNDLE))
        np.testing.assert_array_equal(init_times, data.time[HISTORY - 1 :])
        for i in (0, len(init_times) - 1):
            one = nowcaster.forecast(data, init_time=init_times[i], device="cpu")
            np.testing.assert_allclose(values[i], one, rtol=1e-4, atol=1e-4)
        return self.bytes[ARCHIVE, (frames, trained_on)]

    def mse(self, truth: int, archive: tuple[int, int]) -> np.ndarray:
        """Count it: the mean over init times whose truth is there up to the last lead time."""
        _, values = self.values[ARCHIVE, archive]
        frames = rain(truth, 8, 8).values.astype(np.float64)
        scored = [i for i in range(len(values)) if i + HISTORY - 1 + STEPS < truth]
        errors = [[(values[i, s] - frames[i + HISTORY + s]) ** 2 for s in range(STEPS)] for i in scored]
        return np.mean(errors, axis=(0, 2, 3))


class World(RuleBasedStateMachine):
    """A folder and the model of it."""

    def __init__(self, nursery: Nursery, unbroken: Unbroken, counts: Counter[str]) -> None:
        super().__init__()
        self.nursery, self.unbroken, self.counts = nursery, unbroken, counts
        self.folder = Path(tempfile.mkdtemp(dir=unbroken.folder))
        self.frames = FIRST
        self.stands: dict[str, Key] = dict.fromkeys((STORE, BUNDLE, ARCHIVE))
        self.bytes: dict[str, Bytes] = {}
        """Of what stands, as it was made."""
        self.damaged: dict[str, Bytes] = {}
        """Outputs of which a file was changed, and what they hold since."""
        self.begun: dict[str, set[Key]] = {STORE: set(), ARCHIVE: set(), RUN: set()}
        """What may have been begun; empty where nothing is left of it."""
        self.hurt: set[str] = set()
        """Outputs whose journal was damaged before they were finished, and the folder of a run whose checkpoint was."""
        self.journal_of: dict[str, tuple[Key, int | None]] = {}
        """What the journal beside an output tells of, and the inode of the output that it ended with."""
        self.checkpoint_of: dict[bytes, Key] = {}
        """Which training wrote a checkpoint, by the bytes of it; None: it was damaged."""
        self.half_saved = False
        """Whether a part of a model may lie beside it, from a training that was killed."""

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @initialize(stages=st.integers(0, 3))
    def some_stages_were_done_long_ago(self, stages: int) -> None:
        made = (self.unbroken.store(FIRST), self.unbroken.model(FIRST), self.unbroken.archive(FIRST, FIRST))
        for name, whole in list(zip(self.stands, made, strict=True))[:stages]:
            self.stands[name], self.bytes[name] = (FIRST, FIRST) if name == ARCHIVE else FIRST, whole
            self.put(name, whole)

    # What is there

    def put(self, name: str, whole: Bytes) -> None:
        for file, data in whole.items():
            path = self.folder / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def sound(self, name: str) -> bool:
        return self.stands[name] is not None and name not in self.damaged

    def now(self, name: str) -> Bytes | None:
        place = self.folder / name
        return held(place) if place.exists() else None

    def journal(self, name: str) -> Bytes:
        """The files of the journal beside an output, but for those that are being written."""
        place = self.folder / BESIDE[name][1]
        files = [place, *place.rglob("*")]
        return {str(f): f.read_bytes() for f in files if f.is_file() and not f.name.startswith(".")}

    def inode(self, name: str) -> int | None:
        place = self.folder / name
        return place.stat().st_ino if place.exists() else None

    def checkpoints(self) -> list[bytes]:
        """What the checkpoints hold, the newest first."""
        files = [self.folder / RUN / name for name in (LAST, PREVIOUS)]
        return [f.read_bytes() for f in files if f.exists()]

    def trained_before(self) -> Key:
        """What the newest checkpoint that can be read was trained on; None where there is none."""
        return next((key for c in self.checkpoints() if (key := self.checkpoint_of[c]) is not None), None)

    def lost(self) -> set[int]:
        """The errors of a stage that needs frames."""
        return set() if self.sound(STORE) else {DATA}

    @invariant()
    def nothing_stands_but_what_was_made_and_what_happened_to_it(self) -> None:
        allowed = {n for n, key in self.stands.items() if key is not None} | ({RUN} if self.begun[RUN] else set())
        for name, beside in BESIDE.items():
            allowed |= set(beside) if self.begun[name] else set()
        # What is being written has a name of its own, which the next process that writes the same takes away.
        written = tuple(f".{name}." for name in (STORE, ARCHIVE) if self.begun[name])
        written += (f".{BUNDLE}.",) if self.half_saved else ()
        found = {n for n in names_of(self.folder) if not n.startswith(written)}
        assert found <= allowed, found - allowed
        for name, key in self.stands.items():
            assert self.now(name) == (None if key is None else self.damaged.get(name, self.bytes[name])), name

    # Stages

    def stage(self, job: str, *args: Any, at: float | None, points: int) -> End:
        fault = None if at is None else Fault(str(self.folder), "kill", 1 + int(at * points))
        end = self.nursery.one(job, str(self.folder), *args, fault=fault)
        killed = end.code == -9
        self.counts[f"{job.removeprefix('stage_')}, {'killed' if killed else f'exit {end.code}'}"] += 1
        assert killed == (end.code < 0), end
        assert not killed or at is not None
        assert killed or end.code in (0, DATA, MODEL, STORAGE, RECIPE), end.error
        assert end.code <= 0 or "\n" not in end.error, end.error
        return end

    def made(self, name: str, key: Key, whole: Bytes) -> None:
        self.stands[name], self.bytes[name] = key, whole
        self.damaged.pop(name, None)
        if name in self.begun:
            self.begun[name] = set()
            self.hurt.discard(name)
            self.journal_of.pop(name, None)

    def judge(
        self, name: str, key: Key, replace: bool, whole: Callable[[], Bytes], needs: set[int], do: Callable[[], End]
    ) -> End:
        """Do a conversion or a hindcast; say what its end has to be, and what stands then."""
        before, journal, inode = self.now_by_model(name), self.journal(name), self.inode(name)
        expected = needs or self.expected(name, key, replace)
        end = do()
        now = self.now(name)
        if end.code == -9:
            # Before or after, and nothing in between.
            assert not needs
            self.begun[name].add(key)
            if not self.journal(name):
                self.journal_of.pop(name, None)
            elif self.inode(name) != inode:
                self.journal_of[name] = (key, self.inode(name))
            elif self.journal(name) != journal:
                self.journal_of[name] = (key, None)
            if now != before:
                assert now == whole(), f"{name} is neither what it was nor what it was to be"
                self.stands[name], self.bytes[name] = key, whole()
                self.damaged.pop(name, None)
            return end
        assert end.code in expected, (end.code, expected, end.error)
        if end.code == 0 and now == before and self.stands[name] == key and not replace:
            # What was begun in place of it stays, where it was not at its very end.
            if not any((self.folder / n).exists() for n in BESIDE[name]):
                self.begun[name] = set()
                self.journal_of.pop(name, None)
        elif end.code == 0:
            assert now == whole(), f"{name} has other bits than one that nothing happened to"
            self.made(name, key, whole())
        else:
            assert now == before, f"{name} changed though {end.error}"
        return end

    def expected(self, name: str, key: Key, replace: bool) -> set[int]:
        """How a conversion or a hindcast ends whose inputs are sound."""
        if replace:
            return {0}
        begun, ended_with = self.journal_of.get(name, (None, None))
        if self.stands[name] is not None:
            if name == ARCHIVE and name in self.damaged:
                return {DATA, STORAGE}  # unreadable as a whole, or in a file
            # A store that stands is refused, but for the one whose conversion was killed just before its end.
            same = self.stands[name] == key
            well = same if name == ARCHIVE else same and begun == key and ended_with == self.inode(name)
            return {0} if well and name not in self.hurt else {STORAGE} if not well else {0, STORAGE}
        # What a damaged journal still says is not for the model to know.
        return {0, STORAGE} if name in self.hurt else {0} if begun in (None, key) else {STORAGE}

    def now_by_model(self, name: str) -> Bytes | None:
        return None if self.stands[name] is None else self.damaged.get(name, self.bytes[name])

    @rule(at=ANYWHEN, replace=st.booleans())
    def convert(self, at: float | None, replace: bool) -> None:
        key = self.frames
        whole = self.unbroken.store(key)
        existing = "replace" if replace else "refuse"
        points = self.unbroken.points[STORE, key]
        do = partial(self.stage, "stage_convert", key, existing, at=at, points=points)
        self.judge(STORE, key, replace, lambda: whole, set(), do)

    @precondition(lambda self: self.stands[STORE] is not None)
    @rule(at=ANYWHEN)
    def train(self, at: float | None) -> None:
        key = self.stands[STORE]
        whole = self.unbroken.model(key)
        before, trained_before = self.now_by_model(BUNDLE), self.trained_before()
        end = self.stage("stage_train", at=at, points=self.unbroken.points[BUNDLE, key])
        now = self.now(BUNDLE)
        for checkpoint in self.checkpoints():
            self.checkpoint_of.setdefault(checkpoint, key)
        if end.code == -9:
            assert self.sound(STORE)
            self.begun[RUN].add(key)
            self.half_saved = True
            if now != before:
                assert now == whole
                self.made(BUNDLE, key, whole)
            return
        # A run without a checkpoint that can be read begins anew, whatever was trained there.
        expected = self.lost() or ({0} if trained_before in (None, key) else {RECIPE})
        assert end.code in expected, (end.code, expected, end.error)
        if end.code == 0:
            assert end.value == self.unbroken.values[BUNDLE, key], "another model than of an unbroken training"
            assert now == whole
            self.made(BUNDLE, key, whole)
            self.begun[RUN] = {key}
            self.hurt.discard(RUN)
            self.half_saved = False
        else:
            assert now == before

    @precondition(lambda self: self.stands[STORE] is not None and self.stands[BUNDLE] is not None)
    @rule(at=ANYWHEN, replace=st.booleans())
    def hindcast(self, at: float | None, replace: bool) -> None:
        key = (self.stands[STORE], self.stands[BUNDLE])
        whole = self.unbroken.archive(*key)
        existing = "replace" if replace else "resume"
        do = partial(self.stage, "stage_hindcast", existing, at=at, points=self.unbroken.points[ARCHIVE, key])
        needs = self.lost() | (set() if self.sound(BUNDLE) else {MODEL})
        end = self.judge(ARCHIVE, key, replace, lambda: whole, needs, do)
        if end.code == 0:
            np.testing.assert_array_equal(end.value[1], self.unbroken.values[ARCHIVE, key][1])

    @precondition(lambda self: self.stands[ARCHIVE] is not None and self.stands[STORE] is not None)
    @rule()
    def verify(self) -> None:
        end = self.stage("stage_verify", at=None, points=0)
        if self.sound(STORE) and self.sound(ARCHIVE):
            assert end.code == 0, end.error
            expected = self.unbroken.mse(self.stands[STORE], self.stands[ARCHIVE])
            np.testing.assert_allclose(end.value, expected, rtol=1e-5)
        else:
            assert end.code == DATA, (end.code, end.error)

    # What happens meanwhile

    @precondition(lambda self: self.frames < MOST)
    @rule()
    def append(self) -> None:
        """Further frames come to the source."""
        self.frames += MORE
        self.counts["append"] += 1

    @precondition(lambda self: any(self.sound(n) for n in self.stands))
    @rule(data=st.data(), kind=st.sampled_from(KINDS), number=st.integers(0, 2**32))
    def corrupt(self, data: st.DataObject, kind: str, number: int) -> None:
        """A file of a finished output is changed; whoever reads it says so."""
        name = data.draw(st.sampled_from([n for n in self.stands if self.sound(n)]))
        place, rng = self.folder / name, random.Random(number)
        files = [f for f in sorted(place.rglob("*")) if f.is_file() and f.name not in ("README.md", "recipe.yaml")]
        change(rng, files, kind)
        self.damaged[name] = held(place)
        self.counts[f"corrupt, {name}"] += 1
        if name == BUNDLE:
            with pytest.raises(ModelError):
                sa_nowcast.load(str(place))
        else:
            with pytest.raises(DataError):
                sa_nowcast.open_zarr(place).load()

    @precondition(lambda self: any(self.files_begun(n) for n in BESIDE))
    @rule(data=st.data(), kind=st.sampled_from(KINDS), number=st.integers(0, 2**32))
    def corrupt_what_is_not_finished(self, data: st.DataObject, kind: str, number: int) -> None:
        name = data.draw(st.sampled_from([n for n in BESIDE if self.files_begun(n)]))
        journal = self.journal(name)
        change(random.Random(number), self.files_begun(name), kind)
        self.hurt |= {name} if self.journal(name) != journal else set()
        self.counts[f"corrupt, {name} unfinished"] += 1

    def files_begun(self, name: str) -> list[Path]:
        places = [self.folder / n for n in BESIDE[name][:2]] if self.begun[name] else []
        return [f for p in places for f in (sorted(p.rglob("*")) if p.is_dir() else [p]) if f.is_file()]

    # Once: the same bit flipped again would mend it.
    @precondition(lambda self: self.begun[RUN] and RUN not in self.hurt and (self.folder / RUN / LAST).exists())
    @rule(kind=st.sampled_from(("flip", "truncate", "empty", "remove")), number=st.integers(0, 2**32))
    def corrupt_the_newest_checkpoint(self, kind: str, number: int) -> None:
        """Training goes on from the one before, or begins anew."""
        last = self.folder / RUN / LAST
        mutation, _ = change(random.Random(number), [last], kind)
        self.hurt.add(RUN)
        self.checkpoint_of |= {last.read_bytes(): None} if last.exists() else {}
        self.counts["corrupt, checkpoint"] += 1
        found, damage = newest_valid(self.folder / RUN)
        assert found != last
        assert mutation.kind == "remove" or damage is not None

    @precondition(lambda self: self.damaged)
    @rule(data=st.data())
    def mend(self, data: st.DataObject) -> None:
        """A damaged output comes back from elsewhere."""
        name = data.draw(st.sampled_from(sorted(self.damaged)))
        shutil.rmtree(self.folder / name)
        self.put(name, self.bytes[name])
        del self.damaged[name]

    @precondition(lambda self: self.begun[RUN] and self.begun[RUN] != {self.stands[STORE]})
    @rule()
    def start_another_run(self) -> None:
        """As the error says: remove the folder of the former one."""
        shutil.rmtree(self.folder / RUN, ignore_errors=True)
        self.begun[RUN] = set()
        self.hurt.discard(RUN)


@pytest.mark.faults(12, 300)
def test_any_order_of_stages_kills_and_damage_ends_with_the_bits_of_an_unbroken_run_or_the_demanded_error(
    repetitions: int, nursery: Nursery, tmp_path: Path
) -> None:
    number, counts = int(os.environ.get("SA_NOWCAST_FAULTS_SEED", "0")), Counter[str]()
    unbroken = Unbroken(nursery, tmp_path)
    health = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        seed(number)(lambda: World(nursery, unbroken, counts)),
        settings=settings(
            max_examples=repetitions,
            stateful_step_count=16,
            deadline=None,
            database=None,
            derandomize=False,
            suppress_health_check=health,
            phases=[Phase.generate],  # a shorter history would take long to find
            report_multiple_bugs=False,
        ),
    )
    print(f"seed {number}, {repetitions} histories: " + ", ".join(f"{v} {k}" for k, v in sorted(counts.items())))
    for stage in ("convert", "train", "hindcast", "verify"):
        assert counts[f"{stage}, exit 0"], stage
        assert counts[f"{stage}, killed"] or stage == "verify", stage
