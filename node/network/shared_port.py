"""TCP dials that leave from a port on which we listen, so that a NAT has one mapping for both. Knows no peers.

Such a port needs SO_REUSEPORT, by which processes of one user share ports without a word. A listener gets it only once
it listens: until then it is refused a port that anybody listens on, as any other listener is, and afterwards a second
node is.
"""

import trio


def let_dials_share(listening: trio.socket.SocketType) -> None:
    """From now on `connect_from` may leave from the address on which this socket listens."""
    listening.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEPORT, 1)


async def connect_from(own: tuple[str, int], host: str, port: int) -> trio.SocketStream:
    """A connection from our listening address `own` to an IP address and port. Raises OSError.

    One between the same two ends that stands, or ended less than a minute ago, is in the way.
    """
    family = trio.socket.AF_INET6 if ":" in host else trio.socket.AF_INET
    sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEPORT, 1)
        await sock.bind(own)
        await sock.connect((host, port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)
