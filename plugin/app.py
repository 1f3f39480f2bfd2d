"""Builds every object of the plugin, starts them in order and stops them in reverse.

A stop leaves the kernel as it is: containers go on, and the next process takes over what it finds.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import Sequence

import structlog
from aiohttp import web

from plugin import privileges, sockets, waiting
from plugin.admin import gauges
from plugin.admin import ingress as ingressadmin
from plugin.admin.interface import Admin
from plugin.admin.node import NodeAdmin
from plugin.admin.upstreams import UpstreamAdmin
from plugin.admin.web import WebAdmin
from plugin.cluster.admission import Admission
from plugin.cluster.claims import Claims
from plugin.cluster.cluster import Cluster
from plugin.cluster.names import Names
from plugin.docker.driver import NetworkDriver
from plugin.docker.ipam import Ipam
from plugin.docker.ports import PortReservations
from plugin.docker.server import Server, calls
from plugin.kernel.reconciler import Reconciler
from plugin.kernel.writer import Kernel
from plugin.local.directory import Directory
from plugin.metrics import Metrics
from plugin.resolver.forwarder import Forwarder
from plugin.resolver.hostservers import HostServers
from plugin.settings import Settings
from plugin.sockets import Listener
from plugin.wireguard.backend import Chosen
from stackpad.engine import Engine
from stackpad.errors import StackpadError
from stackpad.runtime import configure_logging

JANITOR_EVERY = 60.0
JANITOR_GRACE = 300.0
"""Seconds between two rounds of the janitor, and until something nobody took up is given back."""

SHUTDOWN = 2.0
"""Seconds calls in flight have to finish at a stop, and as many to end when cancelled; on each of two sites. Docker kills
a plugin that takes more than ten in all."""


def main(listening: Sequence[Listener], refused: Sequence[str]) -> int:
    """Run on the sockets of Docker's drivers until SIGTERM or SIGINT; returns the exit status.

    ``refused`` says which privileges could not be given up; that is logged, and nothing hangs on it.
    """
    reasons: list[BaseException] = []
    try:
        settings = Settings.load()
        configure_logging(settings.log_level)
        if refused:
            structlog.get_logger("plugin").warning("privileges could not be given up", reasons=list(refused))
        asyncio.run(_serve(settings, listening))
    except* StackpadError as group:
        reasons += group.exceptions
    for reason in reasons:
        sys.stderr.write(f"stackpad: {reason}\n")
    return 1 if reasons else 0


async def _serve(settings: Settings, listening: Sequence[Listener]) -> None:
    log = structlog.get_logger("plugin")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics = Metrics()
    opened = await waiting.opened(settings, listening, metrics, stop)
    if opened is None:
        return
    async with contextlib.AsyncExitStack() as stack:
        state = await stack.enter_async_context(opened)
        kernel = await stack.enter_async_context(Kernel(run=settings.host_run, proc=settings.host_proc))
        reconciler, ports = Reconciler(state, kernel), PortReservations()
        metrics.registry.register(gauges.OfState(state, reconciler))
        metrics.starts.set_to_current_time()
        engine = await stack.enter_async_context(Engine(settings.engine))
        backend = await stack.enter_async_context(Chosen(settings.wireguard))
        cluster = Cluster(settings, state, kernel, reconciler, engine, backend)
        servers = HostServers(settings.host_run, fixed=settings.dns)
        names = Names(cluster, state, Forwarder(servers))
        ports.container_of = cluster.attachments.container_of
        cluster.names_changed, cluster.exposition = names.touch, metrics.exposition
        state.endpoints_changed = names.touch
        reconciler.facts_changed, reconciler.route_gone = cluster.networks_changed, cluster.mesh.route_gone
        metrics.registry.register(gauges.OfCluster(cluster, names))
        await cluster.mesh.prime()
        reconciler.beside("web", cluster.web_elements())
        claims, admission = Claims(cluster, settings), Admission(cluster, settings, state, reconciler, engine)
        ipam = Ipam(state, settings, kernel.routes, claims)
        driver = NetworkDriver(state, ipam, ports, reconciler, kernel.routes, claims)
        directory = Directory(
            engine,
            state,
            driver.forget_network,
            driver.forget_endpoint,
            driver.unwanted,
            learnt=cluster.networks_changed,
            heard=driver.heard,
        )
        claims.listed = directory.networks
        web_admin = WebAdmin(cluster, reconciler)
        admin = Admin(
            settings,
            state,
            reconciler,
            directory,
            metrics,
            NodeAdmin(cluster, admission),
            web_admin,
            UpstreamAdmin(state, reconciler),
        )
        ready = asyncio.Event()
        server = Server(calls(driver, ipam), ready, metrics)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        background = [tasks.create_task(reconciler.run(), name="reconciler")]
        await _site(stack, server.application(), listening)
        whole = admin.application()
        narrow = ingressadmin.narrowed(whole)
        for_root, for_ingress = (sockets.listen(path) for path in (settings.admin_socket, settings.web_socket))
        stack.callback(for_root.remove)
        stack.callback(for_ingress.remove)
        await _site(stack, whole, [for_root])
        await stack.enter_async_context(ingressadmin.served(narrow, for_ingress, SHUTDOWN))
        await reconciler.ready.wait()
        for endpoint in state.endpoints.values():
            if endpoint.ports and endpoint.id not in reconciler.lost:
                admin.problems += ports.restore(endpoint)
        ready.set()
        background.append(tasks.create_task(_janitor(ipam, metrics), name="janitor"))
        background.append(tasks.create_task(directory.run(), name="directory"))
        background.append(tasks.create_task(cluster.run(), name="cluster"))
        background.append(tasks.create_task(names.run(), name="names"))
        background.append(tasks.create_task(claims.run(), name="ranges"))
        background.append(tasks.create_task(admission.join_as_set(), name="join"))
        # What is here now stays: the collector need not walk it again and again.
        gc.freeze()
        log.info(
            "serving",
            networks=len(state.networks),
            endpoints=len(state.endpoints),
            capabilities=privileges.own().permitted,
            sockets=[str(listener.path) for listener in listening],
        )
        await stop.wait()
        for task in background:
            task.cancel()
        if not state.networks and cluster.membership is None and not cluster.damage:
            # Nothing is left that the rules would keep apart, and an uninstalled plugin leaves nothing behind.
            await asyncio.gather(*background, return_exceptions=True)
            await kernel.remove_rules()


async def _site(stack: contextlib.AsyncExitStack, application: web.Application, listening: Sequence[Listener]) -> None:
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=SHUTDOWN)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    for listener in listening:
        await web.SockSite(runner, listener.socket).start()


async def _janitor(ipam: Ipam, metrics: Metrics) -> None:
    """Give back what nobody took up, until cancelled; what the disk would not forget has its turn in the next round."""
    log = structlog.get_logger("janitor")
    while True:
        await asyncio.sleep(JANITOR_EVERY)
        try:
            await ipam.collect(JANITOR_GRACE)
        except StackpadError as error:
            log.warning("what nobody took up could not be given back", reason=str(error), retry_in=JANITOR_EVERY)
        else:
            metrics.collections.inc()
