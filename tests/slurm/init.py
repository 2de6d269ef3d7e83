"""The first process of a namespace: starts a command, reaps whatever is orphaned, ends when its standard input closes.

When it ends, the kernel kills every process of the namespace.
"""

import fcntl
import signal
import socket
import struct
import subprocess
import sys

SIOCSIFFLAGS, SIOCSIFADDR, IFF_UP = 0x8914, 0x8916, 0x1


def loopback() -> None:
    """Switch on the loopback device of a new network namespace.

    With a second address: the C library finds no host at all (AI_ADDRCONFIG) where 127.0.0.1 is the only one.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
        address = struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, socket.inet_aton("127.0.0.2"))
        fcntl.ioctl(any_socket, SIOCSIFADDR, address)


if __name__ == "__main__":
    if sys.argv[1:] == ["--loopback"]:
        loopback()
    else:
        subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # after the start: the command shall not inherit it
        sys.stdin.buffer.read()
