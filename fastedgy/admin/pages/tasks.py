"""The list of tasks, and the field that finds one by a piece of its id."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from fastedgy.admin.auth import Identity
from fastedgy.admin.pages.filters import DAYS, SINCE, asked_in, filter_of, sentence
from fastedgy.admin.pages.site import Site, back
from fastedgy.admin.pages.words import clock
from fastedgy.admin.service import QueueAdmin
from fastedgy.dependencies import Inject
from fastedgy.errors import TaskNotFound

ON_A_PAGE = 50
MORE = (
    ("error", "error type", "ValueError"),
    ("text", "message has", "no such user"),
    ("worker", "worker", "server/pid"),
    ("longer", "took at least (s)", "30"),
    ("until", "made before", "2030-01-31"),
    ("context", "context", "step=3"),
    ("key", "unique key", "order-7"),
    ("gate", "limited by", "customer:42"),
    ("schedule", "schedule", "nightly"),
    ("parent", "child of", "id"),
    ("tree", "in the family of", "id"),
)
_SHORTEST_ID = 4


def add_routes(router: APIRouter, site: Site) -> None:
    """Add them to the pages' router."""

    @router.get("/tasks")
    async def tasks(
        request: Request,
        who: Annotated[Identity, Depends(site.auth.read)],
        cursor: str | None = None,
        admin: QueueAdmin = Inject(QueueAdmin),
    ) -> Response:
        """A page of tasks, the newest first."""
        asked = asked_in(request.query_params)
        wanted = filter_of(asked, now=clock())
        page = await admin.list_tasks(wanted, limit=ON_A_PAGE, cursor=cursor or None)
        states = await admin.count_states()
        sinces = [(word, label) for word, (label, _) in SINCE.items()]
        sinces += [(word, word) for word in DAYS]
        return site.page(
            request, "tasks.html", who, asked=asked, page=page, cursor=cursor, states=states,
            sinces=sinces, known_sinces={word for word, _ in sinces}, more=MORE,
            sentence=sentence(asked, states, len(page.items), more=bool(page.next or cursor)),
            queue_names=sorted({task.queue for task in page.items}),
        )  # fmt: skip

    @router.get("/find")
    async def find(
        request: Request,
        who: Annotated[Identity, Depends(site.auth.read)],
        q: str = "",
        admin: QueueAdmin = Inject(QueueAdmin),
    ) -> Response:
        """Open the task whose id, or a piece of it, was given; else list those of that name."""
        text = q.strip()
        digits = text.replace("-", "")
        if len(digits) >= _SHORTEST_ID and all(each in "0123456789abcdefABCDEF" for each in digits):
            try:
                return back(request, f"/tasks/{await admin.find_id(text)}")
            except TaskNotFound:
                if len(digits) == 32:
                    raise
        return back(request, "/tasks", name=text)
