"""The ledger: every comparison between the book and a source, machine-checked.

A chapter makes one `Ledger`, enters its claims and displays it last. Displayed,
the ledger is a table for the reader and, beside it, data from which the
scorecard of the whole book is made.
"""

from dataclasses import asdict, dataclass
from html import escape
from typing import Any, Literal

import numpy as np

MIME = "application/vnd.lipsmooth.claims+json"
Relation = Literal["=", ">=", "<="]
Verdict = Literal["reproduced", "differs", "not testable here"]


class ClaimFailed(AssertionError):
    """A claim's comparison did not turn out as the chapter says."""


@dataclass(frozen=True)
class Claim:
    """One comparison with a source.

    Attributes
    ----------
    name : str
        Short identifier, unique in the book.
    statement : str
        What is claimed, for the reader.
    source : str
        Citation key of the source; or ``"theorem"`` for a result proved here,
        ``"conjecture"`` for one that is not, ``"suite"`` for what tests of ours say.
    relation : {"=", ">=", "<="}
        How ``measured`` should stand to ``published``.
    published, measured : float or None
        The source's value and ours, in the same units.
    tolerance : float or None
        Largest departure from the relation that still counts as agreement.
    verdict : {"reproduced", "differs", "not testable here"}
        The outcome.
    note : str
        Why it differs, or what a test would take.
    """

    name: str
    statement: str
    source: str
    relation: Relation
    published: float | None
    measured: float | None
    tolerance: float | None
    verdict: Verdict
    note: str


class Ledger:
    """The claims of one chapter."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []

    def check(
        self,
        name: str,
        statement: str,
        *,
        source: str,
        published: float,
        measured: float,
        tolerance: float = 0.0,
        relation: Relation = "=",
        because: str | None = None,
    ) -> Claim:
        """Compare a measured value with a published one and record the outcome.

        Parameters
        ----------
        name, statement, source, relation, published, measured, tolerance
            See `Claim`.
        because : str, optional
            Why the values differ. With it the claim is *expected* to differ, and
            agreement is the failure: a discrepancy that is not there must not be
            reported.

        Returns
        -------
        Claim
            The recorded claim, ``reproduced`` or ``differs``.

        Raises
        ------
        ClaimFailed
            If the comparison does not turn out as announced, or ``measured`` is
            not a finite number.
        ValueError
            If the name is taken, the relation unknown or the tolerance negative.
        """
        self._check_name(name)
        published, measured = float(published), float(measured)
        if relation not in ("=", ">=", "<="):
            raise ValueError(f"relation must be =, >= or <=, got {relation!r}")
        if not tolerance >= 0:
            raise ValueError(f"tolerance must be at least 0, got {tolerance}")
        if not (np.isfinite(measured) and np.isfinite(published)):
            raise ClaimFailed(f"{name}: measured {measured}, published {published}")
        gap = measured - published
        excess = {"=": abs(gap), ">=": -gap, "<=": gap}[relation]
        holds = excess <= tolerance
        if holds == (because is not None):
            outcome = "agree although they should differ" if holds else "do not agree"
            raise ClaimFailed(
                f"{name}: measured {measured:.10g} {relation} published "
                f"{published:.10g} (tolerance {tolerance:g}): they {outcome}"
            )
        verdict: Verdict = "reproduced" if holds else "differs"
        return self._record(
            name, statement, source, relation, published, measured, tolerance,
            verdict, because or "",
        )  # fmt: skip

    def untestable(
        self,
        name: str,
        statement: str,
        *,
        source: str,
        needs: str,
        published: float | None = None,
    ) -> Claim:
        """Record a published result that this run cannot test, and what it takes.

        Raises
        ------
        ValueError
            If the name is taken.
        """
        self._check_name(name)
        return self._record(
            name, statement, source, "=", published, None, None,
            "not testable here", needs,
        )  # fmt: skip

    def _check_name(self, name: str) -> None:
        if any(claim.name == name for claim in self.claims):
            raise ValueError(f"a claim named {name!r} is already in the ledger")

    def _record(self, *fields: Any) -> Claim:
        claim = Claim(*fields)
        self.claims.append(claim)
        return claim

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {
            "text/html": to_html(self.claims),
            "text/plain": "\n".join(
                f"{c.verdict}: {c.statement} ({c.source})" for c in self.claims
            ),
            MIME: [asdict(claim) for claim in self.claims],
        }


def to_html(claims: list[Claim]) -> str:
    """Return the claims as an HTML table, one row each, verdict first."""
    head = "".join(
        f'<th scope="col">{title}</th>'
        for title in ("Verdict", "Claim", "Source", "Published", "Measured")
    )
    rows = "".join(map(_row, claims))
    return (
        '<div class="claims-wrapper"><table class="claims">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(claim: Claim) -> str:
    note = f'<div class="claim-note">{escape(claim.note)}</div>' if claim.note else ""
    sign = {"=": "", ">=": "≥ ", "<=": "≤ "}[claim.relation]
    badge = claim.verdict.replace(" ", "-")
    published = "" if claim.published is None else sign + _number(claim.published)
    measured = "–" if claim.measured is None else _number(claim.measured)
    return (
        f'<tr id="claim-{escape(claim.name)}">'
        f'<td><span class="verdict verdict-{badge}">{claim.verdict}</span></td>'
        f"<td>{escape(claim.statement)}{note}</td>"
        f"<td>{escape(claim.source)}</td><td>{published}</td><td>{measured}</td></tr>"
    )


def _number(value: float) -> str:
    return f"{value:.6g}"
