#!/usr/bin/env bash
# What egress-init is measured against: the same job by iptables, ipset and dig, one name after the
# other, in the manner of the scripts that containers use for it. It is written for this benchmark
# and is no part of the product.
#
# It does what a careful one does: both families, default deny first, DNS open to the configured
# nameservers only while names are resolved, address + protocol + port, answers in /etc/hosts, a
# marker at the end. It drops no privileges and verifies nothing, both of which egress-init does
# within its time.
set -euo pipefail

list=/etc/beacon-code/allowed_domains.txt
marker=/etc/beacon-code/firewall.ready
rm -f "$marker"

for tables in iptables ip6tables; do
    "$tables" -F
    "$tables" -X
    for chain in INPUT FORWARD OUTPUT; do
        "$tables" -P "$chain" DROP
    done
    "$tables" -A INPUT -i lo -j ACCEPT
    "$tables" -A OUTPUT -o lo -j ACCEPT
    "$tables" -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
    "$tables" -A OUTPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
done
for type in neighbour-solicitation neighbour-advertisement; do
    ip6tables -A INPUT -p icmpv6 --icmpv6-type "$type" -j ACCEPT
    ip6tables -A OUTPUT -p icmpv6 --icmpv6-type "$type" -j ACCEPT
done

# Opens (-A) or closes (-D) the way to the nameservers.
nameservers() {
    local server tables protocol
    while read -r _ server; do
        tables=iptables
        [[ $server == *:* ]] && tables=ip6tables
        for protocol in udp tcp; do
            "$tables" "$1" OUTPUT -d "$server" -p "$protocol" --dport 53 -j ACCEPT
        done
    done < <(grep '^nameserver' /etc/resolv.conf)
}
nameservers -A

ipset create -exist allowed4 hash:ip,port family inet maxelem 1000000
ipset create -exist allowed6 hash:ip,port family inet6 maxelem 1000000
ipset flush allowed4
ipset flush allowed6

# allow SET ADDRESS NAME
allow() {
    local port
    for port in 80 443; do
        ipset add -exist "$1" "$2,tcp:$port"
    done
    printf '%s\t%s\n' "$2" "$3" >>/etc/hosts
}

while read -r name; do
    name=${name%%#*}
    name=${name%%[[:space:]]*}
    [[ $name ]] || continue
    found=
    for address in $(dig +short "$name" A); do
        [[ $address =~ ^[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+$ ]] || continue # an alias
        allow allowed4 "$address" "$name"
        found=yes
    done
    for address in $(dig +short "$name" AAAA); do
        [[ $address =~ ^[0-9a-f:]+$ ]] || continue
        allow allowed6 "$address" "$name"
        found=yes
    done
    if [[ ! $found ]]; then
        echo "no address for $name" >&2
        exit 1
    fi
done <"$list"

nameservers -D
iptables -A OUTPUT -m set --match-set allowed4 dst,dst -j ACCEPT
ip6tables -A OUTPUT -m set --match-set allowed6 dst,dst -j ACCEPT
for tables in iptables ip6tables; do
    "$tables" -A OUTPUT -p tcp -j REJECT --reject-with tcp-reset
done
iptables -A OUTPUT -j REJECT --reject-with icmp-admin-prohibited
ip6tables -A OUTPUT -j REJECT --reject-with icmp6-adm-prohibited
touch "$marker"
