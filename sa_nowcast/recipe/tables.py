"""The recipe of tables: runs of other recipes, network by network, beside figures that a publication prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sa_nowcast.errors import RecipeError, nearest
from sa_nowcast.models.registry import NAMES, NetworkName
from sa_nowcast.recipe.blocks import Block, OutputRecipe

COSTS: dict[str, tuple[str, str]] = {
    "parameters": ("10⁶ parameters", "of the network"),
    "gflop": (
        "GFLOP",
        "10⁹ additions and multiplications in the convolutions, matrix products and attention of one forecast",
    ),
    "seconds": ("s an update", "the median in the log of training, by the clock, so other work on the machine counts"),
}
"""Columns that are no scores, but what a network costs: what a table calls them, and what they are."""
ALL = "all"
if TYPE_CHECKING:
    AnyName = str
else:
    AnyName = Literal[(*NAMES, ALL)]
PERSISTENCE_ROW, DEFAULT_ROW = "persistence", "default"


class ColumnRecipe(Block):
    """One score of a table, or what a network costs."""

    score: str = Field(
        min_length=1,
        description="Its name, as in verification.metrics of the runs; or a cost: "
        + "; ".join(f"{name} ({unit}: {what})" for name, (unit, what) in COSTS.items())
        + ".",
    )
    lead: int | None = Field(None, ge=1, description="Lead time, counted from 1; null: the mean over all.")
    threshold: float | None = Field(None, description="Of a score of events: the threshold, one of the runs'.")

    @property
    def label(self) -> str:
        """What a table calls it."""
        if self.score in COSTS:
            return COSTS[self.score][0]
        lead = "" if self.lead is None else f" {self.lead}"
        return self.score + ("" if self.threshold is None else f">={self.threshold:g}") + lead


class TableRecipe(Block):
    """One table, as far as runs of one recipe fill it."""

    title: str = Field(min_length=1, description="What it is called.")
    source: str = Field("", description="Where figures are printed, if any are.")
    recipe: str = Field(
        min_length=1, description="The experiment whose runs fill it: its path, or its name where it ships."
    )
    columns: tuple[ColumnRecipe, ...] = Field(min_length=1, description="The scores and costs.")
    printed: dict[NetworkName, tuple[float | None, ...]] = Field(
        {}, description="Of each network the printed figures, in the order of the columns; null: none is printed."
    )
    networks: tuple[AnyName, ...] = Field(
        (), description="Networks without printed figures; [all]: every network that there is."
    )
    beside: tuple[Literal["persistence", "default"], ...] = Field(
        (), description="Rows without training: persistence, and default, the model that ships."
    )
    note: str = Field("", description="What a reader has to know, such as what keeps printed figures and ours apart.")

    @model_validator(mode="after")
    def _a_figure_for_each_column(self) -> TableRecipe:
        for network, figures in self.printed.items():
            if len(figures) != len(self.columns):
                raise RecipeError(
                    "printed",
                    f"{len(figures)} figures of {network}",
                    expected=f"{len(self.columns)}, one for each column",
                )
        if not self.rows:
            raise RecipeError("tables", f"no network in {self.title!r}", expected="some in printed, or in networks")
        return self

    @property
    def rows(self) -> tuple[NetworkName, ...]:
        """The networks, those with printed figures first."""
        return tuple(dict.fromkeys([*self.printed, *(NAMES if ALL in self.networks else self.networks)]))


class TablesRecipe(Block):
    """Tables of networks that are trained alike; those of a publication with the printed figures beside ours."""

    name: str = Field(description="What the tables are called.")
    description: str = Field("", description="What it is for; no program reads it.")
    tables: tuple[TableRecipe, ...] = Field(min_length=1, description="The tables.")
    run: bool = Field(True, description="false: makes no runs, and prints what there is.")
    only: tuple[str, ...] | None = Field(
        None, min_length=1, description="Recipes whose tables are wanted, such as [taxibj]; null: all."
    )
    networks: tuple[NetworkName, ...] | None = Field(
        None, min_length=1, description="Networks that are run, and shown; null: all of each table."
    )
    settings: dict[str, tuple[str, ...]] = Field(
        {},
        description="Values replaced in the runs of a network, such as fc-lstm: [network.hidden=[256]]; or of a recipe "
        "and network, such as taxibj trajgru: [network.patch=1].",
    )
    overrides: tuple[str, ...] = Field(
        (), description="Values replaced in every run, such as [training.max_steps=2000]; as --set of an experiment."
    )
    output: OutputRecipe = Field(description="Below the folder, each run has one of its own.")

    @field_validator("overrides", "settings")
    @classmethod
    def _what_each_run_has_of_its_own(cls, value: Any, info: ValidationInfo) -> Any:
        for text in value if isinstance(value, tuple) else [text for each in value.values() for text in each]:
            key = text.partition("=")[0].strip()
            if key in ("network", "network.name", "output", "output.folder"):
                raise RecipeError(
                    str(info.field_name),
                    f"{key} for all runs",
                    expected="one for each",
                    fix="use networks, or output.folder",
                )
        return value

    @field_validator("settings")
    @classmethod
    def _they_are_of_runs(cls, value: dict[str, tuple[str, ...]], info: ValidationInfo) -> dict[str, tuple[str, ...]]:
        tables = info.data.get("tables", ())
        runs = {f"{table.recipe} {name}" for table in tables for name in (*table.rows, DEFAULT_ROW)}
        known = {*NAMES, DEFAULT_ROW, *runs}
        for name in value:
            if tables and name not in known:
                raise RecipeError(
                    "settings", f"no run of {name!r}", "a network, or a recipe of a table and a network of it",
                    f"write {nearest(name, sorted(known), 0.0)!r}",
                )  # fmt: skip
        return value

    @field_validator("tables")
    @classmethod
    def _titles_differ(cls, value: tuple[TableRecipe, ...]) -> tuple[TableRecipe, ...]:
        titles = [table.title for table in value]
        if twice := next((title for title in titles if titles.count(title) > 1), None):
            raise RecipeError("tables", f"{twice!r} is there twice", expected="a title of its own for each")
        return value

    @field_validator("only")
    @classmethod
    def _they_fill_tables(cls, value: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        known = dict.fromkeys(table.recipe for table in info.data.get("tables", ()))
        for name in value or ():
            if known and name not in known:
                raise RecipeError("only", f"no table of {name!r}", expected=f"some of {', '.join(known)}")
        return value

    @field_validator("networks")
    @classmethod
    def _they_have_figures(
        cls, value: tuple[NetworkName, ...] | None, info: ValidationInfo
    ) -> tuple[NetworkName, ...] | None:
        only = info.data.get("only")
        tables = [table for table in info.data.get("tables", ()) if only is None or table.recipe in only]
        known = dict.fromkeys(name for table in tables for name in table.rows)
        if value is not None and known and not set(value) & set(known):
            raise RecipeError("networks", f"no table has {', '.join(value)}", expected=f"some of {', '.join(known)}")
        return value

    def wanted(self) -> list[TableRecipe]:
        """Return the tables that are asked for."""
        return [table for table in self.tables if self.only is None or table.recipe in self.only]

    def wanted_rows(self, table: TableRecipe) -> list[str]:
        """Return the rows of a table that runs fill: the default model where it is asked for, and networks."""
        default = [DEFAULT_ROW] if DEFAULT_ROW in table.beside else []
        return [*default, *(name for name in table.rows if self.networks is None or name in self.networks)]

    def replaced(self, table: TableRecipe, row: str) -> list[str]:
        """Return the values that are replaced in the run of a row, in the order in which they are."""
        own = [*self.settings.get(row, ()), *self.settings.get(f"{table.recipe} {row}", ())]
        if row == DEFAULT_ROW:
            untrained = ["network=null", "start=default", "training.preset=small", "training.max_steps=0"]
            return [*self.overrides, *untrained, *own]
        return [*own, *self.overrides, f"network.name={row}"]
