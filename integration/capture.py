"""Prints the packets that a container sends, one a line: PROTOCOL SOURCE > DESTINATION PORT.

    capture.py INTERFACE

INTERFACE is the container's, as the host has it: whatever arrives there has left the container, and
no rule of its own can hide it. What any IPv6 host says to its neighbours by itself is left out, and
so is ARP. It prints "capturing" when it does, and ends with the container.
"""

import ipaddress
import socket
import struct
import sys

ETH_P_ALL = 3
ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6"}
NEIGHBOUR_TALK = {130, 131, 132, 133, 134, 135, 136, 137, 143}


def packet(kind, octets):
    if kind == ETH_P_IP:
        protocol, source, destination = octets[9], octets[12:16], octets[16:20]
        rest = octets[4 * (octets[0] & 15) :]
    else:
        protocol, source, destination = octets[6], octets[8:24], octets[24:40]
        rest = octets[40:]
        if protocol == 0:  # hop-by-hop options, which multicast reports have
            protocol, rest = rest[0], rest[8 * (rest[1] + 1) :]
    if protocol == 58 and rest[0] in NEIGHBOUR_TALK:
        return None
    source, destination = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    port = struct.unpack("!H", rest[2:4])[0] if protocol in (6, 17) else ""
    return f"{PROTOCOLS.get(protocol, protocol)} {source} > {destination} {port}"


def main(interface):
    link = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    link.bind((interface, ETH_P_ALL))
    print("capturing", flush=True)
    while True:
        try:
            octets, (_, kind, direction, *_) = link.recvfrom(65535)
        except OSError:  # the interface is gone, and the container with it
            return
        if direction != socket.PACKET_OUTGOING and kind in (ETH_P_IP, ETH_P_IPV6):
            line = packet(kind, octets)
            if line:
                print(line, flush=True)


main(*sys.argv[1:])
