"""The running service for tests that are not in Python: `python -m tests.harness` prints one line of JSON and serves.

The line is `{url, control, secret}`: a load balancer before two servers, the control's address, the tokens' secret.
`POST /kill|restart|stop|pause|resume {"server": n}` (`stop`: SIGTERM, and the end of the process), `POST /redis` and
`POST /mongod {"do": "kill" | "restart" | "pause" | "resume"}`, `POST /write {"user", "count", "bytes"}` (so many
events, as the worker would write them), `POST /script` with the fields of `tests.scripted_model.Script`, `GET /seen`
(what the model saw), `GET /server` (the address of the first server, as it is now), `GET /log?user=` (their events,
read past the service), `GET /cut` (how many devices that did not read were cut). It ends with its standard input, and
everything with it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from tests.faults.cluster import Cluster, cluster
from tests.faults.group_clients import writer
from tests.processes import SECRET

_AGENT = {"TWIN_AGENT": "tests.page_agent:agent", "TWIN_HOST_TOOLS": "1", "TWIN_SHOW_REASONING": "1"}
Handler = Callable[[web.Request], Awaitable[web.Response]]


def _control(running: Cluster) -> web.Application:
    async def act(request: web.Request) -> web.Response:
        number = (await request.json())["server"]
        what = request.match_info["what"]
        if what == "restart":
            await running.restart(number)
        else:
            await asyncio.to_thread(getattr(running.servers[number], what))
        return web.json_response({})

    async def engine(request: web.Request) -> web.Response:
        broken = getattr(running, request.match_info["engine"])
        await asyncio.to_thread(getattr(broken, (await request.json())["do"]))
        return web.json_response({})

    async def write(request: web.Request) -> web.Response:
        fields = await request.json()
        async with writer(running) as log:
            for number in range(fields["count"]):
                await log.write(fields["user"], f"event {number} ".ljust(fields["bytes"], "x"))
        return web.json_response({})

    async def script(request: web.Request) -> web.Response:
        fields = await request.json()
        await running.script(fields.pop("contains"), **fields)
        return web.json_response({})

    async def seen(_: web.Request) -> web.Response:
        return web.json_response(await running.model_seen())

    async def server(_: web.Request) -> web.Response:
        return web.json_response(running.servers[0].url)

    async def cut(_: web.Request) -> web.Response:
        living = [index for index, one in enumerate(running.servers) if one.alive]
        metrics = [await running.metrics(index) for index in living]
        return web.json_response(sum(one["twin_slow_consumers_closed_total"] for one in metrics))

    async def log(request: web.Request) -> web.Response:
        events = await running.log(request.query["user"])
        received = ("seq", "type", "message_id", "in_response_to", "payload")
        return web.json_response([{key: one[key] for key in received} for one in events])

    app = web.Application()
    app.router.add_post("/{what:kill|restart|stop|pause|resume}", act)
    app.router.add_post("/{engine:redis|mongod}", engine)
    app.router.add_post("/write", write)
    app.router.add_post("/script", script)
    app.router.add_get("/seen", seen)
    app.router.add_get("/server", server)
    app.router.add_get("/log", log)
    app.router.add_get("/cut", cut)
    return app


async def main() -> None:
    """Serve until standard input ends."""
    with tempfile.TemporaryDirectory() as folder:
        async with cluster(Path(folder), servers=2, TWIN_DRAIN_S=2, **_AGENT) as running:
            runner = web.AppRunner(_control(running), access_log=None)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            control = f"http://127.0.0.1:{runner.addresses[0][1]}"
            print(json.dumps({"url": running.balancer.url, "control": control, "secret": SECRET}), flush=True)
            await asyncio.to_thread(sys.stdin.read)
            await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
