"""The viewer's local server: pages made on demand, for this machine's user alone.

An address with a random token opens it: the token becomes a cookie, and nothing is answered
without it. Requests that name another host are refused: a page from elsewhere can't reach the
server through a name of its own that leads to 127.0.0.1. Pages load nothing from elsewhere and run
no script but script.js.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse

from sapo_vl.errors import DataError, SetupError, printable
from sapo_vl.pages.viewer import render, selection
from sapo_vl.pages.viewer.cards import PAGE_TEXT, CardMaker, Links
from sapo_vl.pages.viewer.curve import curve
from sapo_vl.pages.viewer.files import StoredGroup
from sapo_vl.pages.viewer.heat import LIST_TOKENS, PAGE_TOKENS, token_data
from sapo_vl.pages.viewer.pictures import PAGE_SIDE, picture
from sapo_vl.pages.viewer.render import Opened
from sapo_vl.pages.viewer.selection import Query

Answer = Callable[[Request], Awaitable[Response]]

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
TOKEN_BYTES = 24
ASSETS = {"style.css": "text/css", "script.js": "text/javascript"}


def app(opened: Opened, token: str, *, host: str, page_size: int) -> FastAPI:
    """Return the server's application. `page_size` groups are on a page of a step."""
    server = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    pages = Pages(opened, page_size)

    @server.middleware("http")
    async def guard(request: Request, answer: Answer) -> Response:
        refusal = _refusal(request, token, host)
        response = refusal or await answer(request)
        response.headers.update(HEADERS)
        return response

    @server.exception_handler(DataError)
    async def damaged(request: Request, error: DataError) -> Response:
        return PlainTextResponse(printable(error), status_code=500)

    for path, function in (
        ("/", pages.step),
        ("/group", pages.group),
        ("/problem", pages.problem),
        ("/tokens", pages.tokens),
        ("/picture", pages.picture),
    ):
        server.get(path)(function)
    for name, kind in ASSETS.items():
        server.get(f"/{name}")(_asset(name, kind))
    return server


def _asset(name: str, kind: str) -> Callable[[], Response]:
    def answer() -> Response:
        return Response(render.asset(name), media_type=kind)

    return answer


def _refusal(request: Request, token: str, host: str) -> Response | None:
    """Return the answer to a request that is not the user's; a good token becomes a cookie."""
    named = request.headers.get("host", "")
    if not is_own_name(named, host):
        return PlainTextResponse(
            "refused: this is not a name of the viewer's machine; use its address, or start "
            "`sapo-vl view` with --host NAME",
            status_code=403,
        )
    name = f"sapo_vl_{named.rpartition(':')[2] if ':' in named else '80'}"  # cookies know no ports
    name = "".join(c for c in name if c.isalnum() or c == "_")
    given = request.query_params.get("token", "")
    if given and _same(given, token):
        rest = [(k, v) for k, v in request.query_params.multi_items() if k != "token"]
        target = request.url.path + (f"?{urlencode(rest)}" if rest else "")
        response = RedirectResponse(target, status_code=303)
        response.set_cookie(name, token, httponly=True, samesite="lax", path="/")
        return response
    if _same(request.cookies.get(name, ""), token):
        return None
    return PlainTextResponse(
        "refused: open the whole address that `sapo-vl view` printed, with its token",
        status_code=403,
    )


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def is_own_name(header: str, host: str) -> bool:
    """Whether a request's Host header names this server: an address, or a name of this machine."""
    try:
        name = header.rsplit(":", 1)[0] if not header.endswith("]") else header
        name = name.strip("[]").lower()
        if name in ("localhost", host.lower(), socket.gethostname().lower()):
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Pages:
    """Answers to the server's addresses."""

    def __init__(self, opened: Opened, page_size: int) -> None:
        """`page_size` groups are on a page of a step."""
        self._opened, self._files, self._size = opened, opened.runs[0], page_size
        links = Links(
            group=lambda run, g: "/group?" + urlencode({"run": run, "key": g.key}),
            problem=lambda name: "/problem?" + urlencode({"id": name}),
            tokens=lambda run, g: "/tokens?" + urlencode({"run": run, "key": g.key}),
            picture=lambda run, g, i, _: (
                "/picture?" + urlencode({"run": run, "key": g.key, "number": i})
            ),
        )
        self._cards = CardMaker(opened.runs, links, PAGE_SIDE)
        whole = replace(links, tokens=lambda run, g: links.tokens(run, g) + "&whole=1")
        self._whole = CardMaker(opened.runs, whole, PAGE_SIDE, text_limit=PAGE_TEXT)

    def step(
        self,
        step: int | None = None,
        task: str = "",
        show: str = "",
        sort: str = "",
        search: str = "",
        page: int = 1,
    ) -> Response:
        """A step's groups; without a number the last step's."""
        for files in self._opened.runs:
            files.refresh()
        steps = list(self._files.steps)
        if step is None:
            step = steps[-1]
        if step not in self._files.steps:
            return _missing(f"step {step} has no rollouts; steps {steps[0]} to {steps[-1]} have")
        query = Query(task, show, sort, search)
        everything = self._files.groups(step)
        found = query.apply(self._files, step)
        pages = max(1, -(-len(found) // self._size))
        page = min(max(1, page), pages)
        begin = (page - 1) * self._size
        groups = found[begin : begin + self._size]
        place = steps.index(step)
        asked = {"task": task, "show": show, "sort": sort, "search": search}
        asked = {name: value for name, value in asked.items() if value}

        def step_href(number: int, everything: bool = False) -> str:
            return "/?" + urlencode({"step": number} | ({} if everything else asked))

        return self._page(
            "step.jinja",
            groups,
            title=f"step {step}, {self._opened.names[0]}",
            step=step,
            steps=[step],
            step_href=step_href,
            before=steps[place - 1] if place else None,
            after=steps[place + 1] if place + 1 < len(steps) else None,
            curve=curve(self._opened.runs, steps),
            query=query,
            task_names=render.tasks(everything),
            labels=selection.LABELS,
            sorts={name: label for name, (label, _) in selection.SORTS.items()},
            figures=render.summary(everything),
            cards=[self._cards.card(group) for group in groups],
            shown=len(groups),
            total=len(found),
            everything=len(everything),
            begin=begin,
            pages=pages,
            page_number=page,
            page_numbers=page_numbers(page, pages),
            page_href=lambda number: f"{step_href(step)}&page={number}",
        )

    def group(self, key: str, run: int = 0) -> Response:
        """One group with its whole responses."""
        group = self._group(run, key)
        if group is None:
            return _missing(f"there is no group {key}")
        return self._page(
            "groups.jinja",
            [group],
            title=f"{group.id}, step {group.step}",
            heading=f"{group.id}, step {group.step}",
            step=group.step,
            steps=[group.step],
            back=f"/?step={group.step}",
            trail=[],
            cards=[self._whole.card(group, run)],
            own_page=True,
        )

    def problem(self, id: str) -> Response:
        """A problem's groups over the steps."""
        steps = self._files.steps_of(id)
        groups = [g for step in steps for g in self._files.groups(step) if g.id == id]
        cards = [self._cards.card(group) for group in groups[: self._size * 4]]
        last = next(reversed(self._files.steps))
        return self._page(
            "groups.jinja",
            groups,
            title=f"{id} over the steps",
            heading=f"{id} over the steps",
            step=steps[-1] if steps else last,
            steps=steps or [last],
            back=f"/?step={steps[-1] if steps else last}",
            trail=[(card.step, card) for card in cards],
            cards=cards,
        )

    def tokens(self, key: str, run: int = 0, whole: bool = False) -> Response:
        """The numbers of a group's tokens as JSON; of `whole` responses or of their beginnings."""
        group = self._group(run, key)
        if group is None:
            return _missing(f"there is no group {key}")
        text = self._opened.texts[run]
        if not text.available:
            return PlainTextResponse(text.reason, status_code=404)
        loaded = self._opened.runs[run].load(group, tokens=True)
        return JSONResponse(token_data(loaded, text, PAGE_TOKENS if whole else LIST_TOKENS))

    def picture(self, key: str, number: int, run: int = 0) -> Response:
        """A picture of a group's problem."""
        group = self._group(run, key)
        images = self._opened.runs[run].load(group).images if group is not None else ()
        if not 0 <= number < len(images):
            return _missing("there is no such picture")
        shown = picture(images[number], PAGE_SIDE)
        if shown.fault:
            return _missing(shown.fault)
        return Response(shown.data, media_type=f"image/{shown.kind}")

    def _group(self, run: int, key: str) -> StoredGroup | None:
        return self._opened.runs[run].group(key) if 0 <= run < len(self._opened.runs) else None

    def _page(self, template: str, groups: list[StoredGroup], **values: Any) -> Response:
        steps = values.pop("steps")
        return HTMLResponse(
            render.page(
                template,
                single=False,
                names=self._opened.names,
                heats=render.heat_options(self._opened, steps),
                scales=render.scales(groups),
                faults=self._opened.faults(),
                **({"own_page": False, "nothing": "No rollouts of this problem."} | values),
            )
        )


def _missing(text: str) -> Response:
    return PlainTextResponse(printable(text), status_code=404)


def page_numbers(page: int, pages: int) -> list[int | None]:
    """Return the numbers to link: the ends and those around `page`; None stands for a gap."""
    near = sorted({1, pages, *range(max(1, page - 2), min(pages, page + 2) + 1)})
    numbers: list[int | None] = []
    for number in near:
        if numbers and number - (numbers[-1] or 0) > 1:
            numbers.append(None)
        numbers.append(number)
    return numbers


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0: a free one. Raises SetupError when it can't be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise SetupError(
            f"--host {printable(host)} --port {port}: {error.strerror or error}; "
            "choose another port, or none for a free one"
        ) from error


def serve(opened: Opened, host: str, port: int, page_size: int) -> None:
    """Print the address and answer until the process is interrupted. Raises SetupError."""
    import uvicorn

    token = secrets.token_urlsafe(TOKEN_BYTES)
    with listen(host, port) as sock:
        name = f"[{host}]" if ":" in host else host
        address = f"http://{name}:{sock.getsockname()[1]}/?token={token}"
        print(f"{', '.join(map(printable, opened.names))}: {address}", flush=True)
        config = uvicorn.Config(
            app(opened, token, host=host, page_size=page_size),
            log_level="warning",
            access_log=False,  # it would print the token
            server_header=False,
        )
        uvicorn.Server(config).run(sockets=[sock])
