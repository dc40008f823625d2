# A Node CLI behind egress-init. The paths and variables are those of Beacon's own image, so that what
# used one works with the other; there is no sudo, iptables, ipset or dig in it.
#
#     docker build --file docker/node.Dockerfile --tag beacon DIRECTORY
#
# DIRECTORY holds beacon.tgz (`npm pack` of the CLI), allowed_domains.txt, and guard.cjs from here.
# EGRESS_INIT is the image of docker/Dockerfile; pin both images by their digests.
ARG BASE=node:24-trixie-slim
ARG EGRESS_INIT=egress-init
FROM ${EGRESS_INIT} AS egress-init

FROM ${BASE}
# The public Node images have this user, a bare Debian does not.
RUN id node >/dev/null 2>&1 || useradd --create-home --uid 1000 --shell /bin/bash node
COPY --from=egress-init /egress-init /egress-init
COPY guard.cjs allowed_domains.txt /etc/beacon-code/
COPY beacon.tgz /tmp/
RUN npm install --global --no-audit --no-fund /tmp/beacon.tgz && \
    rm -rf /tmp/beacon.tgz /root/.npm && \
    install --directory --owner=node --group=node --mode=0700 /home/node/.beacon-code
# Here the container is the sandbox; the CLI starts no other, and looks for the firewall's sentinel.
ENV HOME=/home/node \
    CODE_HOME=/home/node/.beacon-code \
    BEACON_CONTAINER=1 \
    BEACON_UNSAFE_ALLOW_NO_SANDBOX=1 \
    EGRESS_INIT_USER=node
WORKDIR /home/node
HEALTHCHECK --interval=10s --timeout=2s CMD ["/egress-init", "check"]
# OPENAI_ALLOWED_DOMAINS, or EGRESS_INIT_ALLOW, takes the place of allowed_domains.txt. For wildcards in
# it, and for addresses that change: docker run --env EGRESS_INIT_SUPERVISE=1, or this line
# ENV EGRESS_INIT_SUPERVISE=1
ENTRYPOINT ["/egress-init", "--"]
CMD ["beacon"]
