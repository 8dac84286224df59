"""What the doctor finds, and its cures."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request, Response

from fastedgy.admin.auth import Identity
from fastedgy.admin.findings import Cure
from fastedgy.admin.pages.site import Site, back
from fastedgy.admin.pages.words import count
from fastedgy.admin.service import QueueAdmin
from fastedgy.dependencies import Inject
from fastedgy.errors import DatabaseError

SOURCE = "page"


def add_routes(router: APIRouter, site: Site) -> None:
    """Add them to the pages' router."""
    read = Annotated[Identity, Depends(site.auth.read)]
    write = Annotated[Identity, Depends(site.auth.write)]

    @router.get("/doctor")
    async def doctor(
        request: Request, who: read, admin: QueueAdmin = Inject(QueueAdmin)
    ) -> Response:
        """What is wrong, or soon will be."""
        findings = await admin.doctor()
        level, sentence = about_findings([str(finding.severity) for finding in findings])
        return site.page(
            request, "doctor.html", who, findings=findings, level=level, sentence=sentence,
            curable=sum(finding.fix is not None for finding in findings), stream=None,
        )  # fmt: skip

    @router.post("/doctor/fix")
    async def fix(
        request: Request,
        who: write,
        code: Annotated[str, Form()],
        title: Annotated[str, Form()],
        admin: QueueAdmin = Inject(QueueAdmin),
    ) -> Response:
        """Apply the cure of a finding, if it is still there."""
        return _cured(request, await admin.fix(code, title, actor=who.name, source=SOURCE))

    @router.post("/doctor/fix-all")
    async def preview_all(
        request: Request, who: write, admin: QueueAdmin = Inject(QueueAdmin)
    ) -> Response:
        """Say which cures there are, and ask."""
        fixes = [finding.fix for finding in await admin.doctor() if finding.fix is not None]
        said = " ".join([f"{count(len(fixes), 'cure')}.", *(fix.text for fix in fixes)])
        return site.confirm(
            request, who, title="Apply the cures?", sentence=said,
            verb="Apply them" if fixes else None, action="/doctor/fix-all/apply", leave="/doctor",
        )  # fmt: skip

    @router.post("/doctor/fix-all/apply")
    async def fix_all(
        request: Request, who: write, admin: QueueAdmin = Inject(QueueAdmin)
    ) -> Response:
        """Apply all cures that are safe while everything runs."""
        return _cured(request, await admin.fix(actor=who.name, source=SOURCE))


def about_findings(severities: Sequence[str]) -> tuple[str, str]:
    """What the doctor has to say, as a level and a sentence."""
    errors, warnings = severities.count("error"), severities.count("warning")
    if errors:
        return "unhealthy", f"{count(errors, 'thing')} need{'s' if errors == 1 else ''} a cure now."
    if warnings:
        return "degraded", f"{count(warnings, 'thing')} to look at; nothing is broken."
    return "healthy", "Nothing is wrong."


def _cured(request: Request, cures: Sequence[Cure]) -> Response:
    """What came of it. Raises DatabaseError for what was refused."""
    refused = [cured.error for cured in cures if cured.error is not None]
    if refused:
        raise DatabaseError(" ".join(refused))
    return back(
        request, "/doctor", did="fix", n=None if cures else 0, what=count(len(cures), "cure")
    )
