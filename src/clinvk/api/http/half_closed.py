"""Half-closed clients: detect whether a client that has closed its sending side still waits for the response.

`shutdown(SHUT_WR)` and `close` look the same to the server. For a client on this machine, the kernel knows whether a
process still has the socket: https://man7.org/linux/man-pages/man7/sock_diag.7.html. A closed socket of a remote client
shows only by the reset with which the client answers further bytes.
"""

import errno
import socket
import struct
import sys

_SOCK_DIAG = 4
_BY_FAMILY = 20
_ANY_STATE = _NO_COOKIE = 0xFFFFFFFF
# The query is nlmsghdr and inet_diag_req_v2, the reply nlmsghdr and inet_diag_msg, as in linux/inet_diag.h.
_HEAD = struct.Struct("=IHHIIBBBxI")
_ADDRESSES = struct.Struct(">HH16s16s")
_TAIL = struct.Struct("=III")
_INODE_AT = 84
_TCP_CLOSE = 7


def is_gone(sock: socket.socket) -> bool | None:
    """Return whether a half-closed client has closed its socket, or None if unknown (yet).

    Only Linux has this information; on other systems every half-closed client counts as gone.
    """
    if sys.platform != "linux":
        return True
    try:
        if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE:
            return True
        ours, theirs = (_Address(*end[:2]) for end in (sock.getsockname(), sock.getpeername()))
        return None if ours.host != theirs.host else not _is_held(theirs, ours)
    except OSError as exc:
        return True if exc.errno in (errno.ENOTCONN, errno.EBADF) else None


class _Address:
    """An IP address and port. An IPv4 address mapped to IPv6 counts as IPv4."""

    def __init__(self, host: str, port: int) -> None:
        host = host.removeprefix("::ffff:")
        self.family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.host = socket.inet_pton(self.family, host)
        self.port = port


def _is_held(local: _Address, remote: _Address) -> bool:
    """Return whether a process on this machine has the socket between two addresses."""
    head = _HEAD.pack(72, _BY_FAMILY, 1, 0, 0, local.family, socket.IPPROTO_TCP, 0, _ANY_STATE)
    query = head + _ADDRESSES.pack(local.port, remote.port, local.host, remote.host)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
        kernel.setblocking(False)  # the kernel replies while it takes the query
        kernel.sendto(query + _TAIL.pack(0, _NO_COOKIE, _NO_COOKIE), (0, 0))
        reply = kernel.recv(4096)
    return int.from_bytes(reply[4:6], "little") == _BY_FAMILY and any(reply[_INODE_AT : _INODE_AT + 4])
