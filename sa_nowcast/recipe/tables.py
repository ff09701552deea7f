"""The recipe of a publication's tables: runs of other recipes, network by network, beside the printed figures."""

from __future__ import annotations

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sa_nowcast.errors import RecipeError
from sa_nowcast.models.registry import NetworkName
from sa_nowcast.recipe.blocks import Block, OutputRecipe


class ColumnRecipe(Block):
    """One score of a table."""

    score: str = Field(min_length=1, description="Its name, as in verification.metrics of the runs.")
    lead: int | None = Field(None, ge=1, description="Lead time, counted from 1; null: the mean over all.")


class TableRecipe(Block):
    """One table, as far as runs of one recipe fill it."""

    title: str = Field(min_length=1, description="What it is called.")
    source: str = Field(min_length=1, description="Where the figures are printed.")
    recipe: str = Field(
        min_length=1, description="The experiment whose runs fill it: its path, or its name where it ships."
    )
    columns: tuple[ColumnRecipe, ...] = Field(min_length=1, description="The scores.")
    printed: dict[NetworkName, tuple[float, ...]] = Field(
        min_length=1, description="Of each network the printed figures, in the order of the columns."
    )
    note: str = Field("", description="What keeps the printed figures and those of the runs apart.")

    @model_validator(mode="after")
    def _a_figure_for_each_column(self) -> TableRecipe:
        for network, figures in self.printed.items():
            if len(figures) != len(self.columns):
                raise RecipeError(
                    "printed",
                    f"{len(figures)} figures of {network}",
                    expected=f"{len(self.columns)}, one for each column",
                )
        return self


class TablesRecipe(Block):
    """Tables of a publication, with the figures of our own runs beside the printed ones."""

    name: str = Field(description="What the tables are called.")
    description: str = Field("", description="What it is for; no program reads it.")
    tables: tuple[TableRecipe, ...] = Field(min_length=1, description="The tables.")
    run: bool = Field(True, description="false: makes no runs, and prints what there is.")
    only: tuple[str, ...] | None = Field(
        None, min_length=1, description="Recipes whose tables are wanted, such as [taxibj]; null: all."
    )
    networks: tuple[NetworkName, ...] | None = Field(
        None, min_length=1, description="Networks that are run, and shown; null: all that have printed figures."
    )
    overrides: tuple[str, ...] = Field(
        (), description="Values replaced in every run, such as [training.max_steps=2000]; as --set of an experiment."
    )
    output: OutputRecipe = Field(description="Below the folder, each run has one of its own.")

    @field_validator("overrides")
    @classmethod
    def _what_each_run_has_of_its_own(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            key = text.partition("=")[0].strip()
            if key in ("network", "network.name", "output", "output.folder"):
                raise RecipeError(
                    "overrides", f"{key} for all runs", expected="one for each", fix="use networks, or output.folder"
                )
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
        known = dict.fromkeys(name for table in tables for name in table.printed)
        if value is not None and known and not set(value) & set(known):
            raise RecipeError(
                "networks", f"no printed figures of {', '.join(value)}", expected=f"some of {', '.join(known)}"
            )
        return value

    def wanted(self) -> list[TableRecipe]:
        """Return the tables that are asked for."""
        return [table for table in self.tables if self.only is None or table.recipe in self.only]

    def wanted_networks(self, table: TableRecipe) -> list[NetworkName]:
        """Return the networks of a table that are asked for."""
        return [name for name in table.printed if self.networks is None or name in self.networks]
