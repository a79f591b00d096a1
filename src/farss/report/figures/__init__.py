"""Figures as SVG text: small pure functions over numbers, styled by the page's style sheet, usable on any page."""

from __future__ import annotations
