"""The simulated network: what it may do to a message, and what it may not."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from runtime.transport import Handlers, Stream
from tests.simulation.process import Process
from tests.simulation.sim_transport import Host, Network
from tests.simulation.virtual_loop import run
from volume.errors import DeadlineExceeded, Internal, InvalidRequest, PeerUnavailable, StaleEpoch


def _network(work: Callable[[Network, Host, Host], Awaitable[None]], seed: int = 1) -> None:
    """`work` with a client and a server that is not serving yet."""

    async def main() -> None:
        network = Network(random.Random(seed))
        server = network.host("server", Process("server"))
        await work(network, network.host("client", Process("client")), server)

    run(main())


async def _echo(request: bytes) -> bytes:
    return b"echo " + request


async def _refuse(request: bytes) -> bytes:
    raise StaleEpoch("append in epoch 3: now in 4")


async def _crash(request: bytes) -> bytes:
    raise KeyError("oops")


async def _echo_stream(stream: Stream) -> None:
    while (message := await stream.receive()) is not None:
        if message == b"end":
            return
        if message == b"refuse":
            raise StaleEpoch("append in epoch 3: now in 4")
        await stream.send(b"echo " + message)


HANDLERS = Handlers({"/echo": _echo, "/refuse": _refuse, "/crash": _crash}, {"/stream": _echo_stream})


def test_a_call_is_answered_and_failures_keep_their_class() -> None:
    async def work(network: Network, client: Host, server: Host) -> None:
        await server.serve("server:1", HANDLERS)
        assert await client.call("server:1", "/echo", b"hi", timeout_s=1) == b"echo hi"
        with pytest.raises(StaleEpoch, match="append in epoch 3: now in 4"):
            await client.call("server:1", "/refuse", b"", timeout_s=1)
        with pytest.raises(InvalidRequest):
            await client.call("server:1", "/nothing", b"", timeout_s=1)
        assert network.bugs == []
        with pytest.raises(Internal):
            await client.call("server:1", "/crash", b"", timeout_s=1)
        assert len(network.bugs) == 1

    _network(work)


def test_nobody_home_is_refused_and_a_cut_swallows() -> None:
    async def work(network: Network, client: Host, server: Host) -> None:
        with pytest.raises(PeerUnavailable):
            await client.call("server:1", "/echo", b"hi", timeout_s=1)
        await server.serve("server:1", HANDLERS)
        for source, target in (("client", "server"), ("server", "client")):
            network.cut(source, target)
            with pytest.raises(DeadlineExceeded):
                await client.call("server:1", "/echo", b"hi", timeout_s=1)
            network.heal()
        assert await client.call("server:1", "/echo", b"hi", timeout_s=1) == b"echo hi"
        network.kill("server")
        with pytest.raises(PeerUnavailable):
            await client.call("server:1", "/echo", b"hi", timeout_s=1)

    _network(work)


def test_requests_are_lost_repeated_and_overtaken() -> None:
    arrived: list[bytes] = []

    async def note(request: bytes) -> bytes:
        arrived.append(request)
        return b""

    async def work(network: Network, client: Host, server: Host) -> None:
        await server.serve("server:1", Handlers({"/note": note}))
        network.faults.lost = network.faults.repeated = network.faults.late = 0.2
        requests = [n.to_bytes(2, "big") for n in range(200)]
        calls = (client.call("server:1", "/note", request, timeout_s=2) for request in requests)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        lost = sum(isinstance(outcome, DeadlineExceeded) for outcome in outcomes)
        assert 20 < lost < 120
        assert len(set(arrived)) < 200, "none was lost on the way there"
        assert len(arrived) > len(set(arrived)), "none came twice"
        assert arrived != sorted(arrived), "none was overtaken"

    _network(work)


def test_a_stream_is_in_order_until_its_end() -> None:
    async def work(network: Network, client: Host, server: Host) -> None:
        await server.serve("server:1", HANDLERS)
        network.faults.late = 0.3
        stream = client.open_stream("server:1", "/stream")

        async def send() -> None:
            for n in range(100):
                await stream.send(b"%d" % n)
            await stream.send(b"end")

        sending = asyncio.create_task(send())
        seen = []
        while (message := await stream.receive()) is not None:
            seen.append(message)
        assert seen == [b"echo %d" % n for n in range(100)]
        await sending
        with pytest.raises(PeerUnavailable):
            await stream.send(b"more")

    _network(work)


def test_a_handler_s_failure_ends_the_stream_with_its_class() -> None:
    async def work(network: Network, client: Host, server: Host) -> None:
        await server.serve("server:1", HANDLERS)
        stream = client.open_stream("server:1", "/stream")
        await stream.send(b"refuse")
        with pytest.raises(StaleEpoch):
            await stream.receive()

    _network(work)


@pytest.mark.parametrize("seed", range(4))
def test_a_cut_stream_goes_on_when_healed_and_breaks_when_not(seed: int) -> None:
    async def work(network: Network, client: Host, server: Host) -> None:
        await server.serve("server:1", HANDLERS)
        stream = client.open_stream("server:1", "/stream")
        await stream.send(b"1")
        assert await stream.receive() == b"echo 1"
        network.cut("client", "server")
        await stream.send(b"2")
        await asyncio.sleep(2)
        network.heal()
        assert await stream.receive() == b"echo 2"
        network.cut("server", "client")
        await stream.send(b"3")
        with pytest.raises(PeerUnavailable):
            await stream.receive()

    _network(work, seed)


@pytest.mark.parametrize("seed", range(4))
def test_both_ends_see_a_stream_break(seed: int) -> None:
    ended: list[str] = []

    async def wait(stream: Stream) -> None:
        try:
            await stream.receive()
        except (PeerUnavailable, asyncio.CancelledError) as error:
            ended.append(type(error).__name__)
            raise

    async def work(network: Network, client: Host, server: Host) -> None:
        await server.serve("server:1", Handlers({}, {"/wait": wait}))
        stream = client.open_stream("server:1", "/wait")
        await asyncio.sleep(1)
        stream.cancel()
        with pytest.raises(PeerUnavailable):
            await stream.receive()
        await asyncio.sleep(1)
        assert len(ended) == 1

    _network(work, seed)


def test_a_sender_waits_for_a_slow_receiver() -> None:
    async def sleepy(stream: Stream) -> None:
        await asyncio.sleep(50)
        while await stream.receive() is not None:
            pass

    async def work(network: Network, client: Host, server: Host) -> None:
        await server.serve("server:1", Handlers({}, {"/sleepy": sleepy}))
        stream = client.open_stream("server:1", "/sleepy")
        for _ in range(100):
            await stream.send(b"x")
        assert asyncio.get_running_loop().time() > 49

    _network(work)
