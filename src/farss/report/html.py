"""The report page: one self-contained HTML file."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from farss.amounts import size
from farss.report import drawings, findings, tables
from farss.report.difference_table import difference_section
from farss.report.figures.marks import Style, colour_rules, dash_swatch, swatch
from farss.report.first_screen import first_screen
from farss.report.numbers import count, rate, shown, with_indices
from farss.report.runs import Run, catalogue, learning_rates, trials

TEMPLATE = "report.html.jinja"


def render(report: dict[str, Any]) -> str:
    """The page of one report: everything inline, no network needed, readable without scripts.

    Args:
        report: the content of report.json; optional parts may be missing or None.

    Returns:
        A complete HTML document. All text of the report (questions, the models' words, names) is escaped.
    """
    runs = catalogue(report)
    every = trials(report)
    maps, uniform = drawings.plan_maps(runs)
    page = environment().get_template(TEMPLATE)
    text = page.render(
        report=report,
        created=str(report.get("created") or "").partition("T")[0],
        runs=runs,
        style=Markup(asset("report.css")),  # ours, not the report's
        script=Markup(asset("report.js")),
        headline=findings.markup(findings.headline(report)),
        headline_text=findings.plain(findings.headline(report)),
        standfirst=[findings.markup(s) for s in findings.standfirst(report)],
        summary=tables.summary_rows(runs),
        narrow=tables.NARROW_MEASURES,
        legend=_legend(runs),
        first=first_screen(report, runs),
        colours=Markup(colour_rules(run.colour for run in every)),
        planes={"likelihood": drawings.likelihood_plane(runs), "accuracy": drawings.accuracy_plane(runs)},
        curves=drawings.curve_panels(runs),
        maps=maps,
        uniform=uniform,
        spectra=drawings.spectrum_figures(report, runs),
        facts=tables.fact_groups(report, runs),
        sets=tables.set_table(report, runs),
        scores=tables.score_table(report, runs),
        trials=tables.trial_rows(every),
        trial_measures=tables.TRIAL_MEASURES,
        costs=tables.cost_rows(runs),
        differs=difference_section(report, runs),
        comparisons=tables.comparison_groups(report, runs),
        recipe=yaml.safe_dump(report.get("recipe") or {}, sort_keys=False, allow_unicode=True).strip(),
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate in a model's words cannot be written


def _legend(runs: list[Run]) -> dict[str, list[tuple[Markup, Markup]]]:
    """Methods by colour and shape; learning rates by filling and dash, where there is more than one."""
    methods = {r.method: (r.method_label, Style(r.style.class_, r.style.shape)) for r in runs}
    neutral = {r.rate: Style("s8", "circle", r.style.fill) for r in runs}
    rates = learning_rates([r.record for r in runs]) if len({r.style.fill for r in runs}) > 1 else []
    fills = [
        (Markup(swatch(neutral[v]) + dash_swatch(neutral[v])), Markup("lr {}").format(shown(v, rate))) for v in rates
    ]
    return {
        "methods": [(Markup(swatch(style)), Markup("{}").format(label)) for label, style in methods.values()],
        "rates": fills if len(fills) > 1 else [],
    }


@cache
def environment() -> Environment:
    """The templates of all pages: text is escaped, and what a template asks for must be there."""
    made = Environment(
        loader=PackageLoader("farss.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        count=lambda raw: shown(raw, count),
        size=lambda raw: shown(raw, size),
        measure=tables.measure_name,
        indices=with_indices,
    )
    return made


@cache
def asset(name: str) -> str:
    """The text of a file beside the templates."""
    return resources.files("farss.report").joinpath("assets", name).read_text(encoding="utf-8")
