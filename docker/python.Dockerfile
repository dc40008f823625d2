# A Python service behind egress-init.
#
#     docker build --file docker/python.Dockerfile --tag service DIRECTORY
#
# DIRECTORY holds requirements.txt, allowed_domains.txt, and the package `service`, which
# `python3 -m service` runs. EGRESS_INIT is the image of docker/Dockerfile; pin both images by
# their digests.
ARG BASE=python:3.13-slim-trixie
ARG EGRESS_INIT=egress-init
FROM ${EGRESS_INIT} AS egress-init

FROM ${BASE}
COPY --from=egress-init /egress-init /egress-init
COPY allowed_domains.txt /etc/beacon-code/allowed_domains.txt
WORKDIR /srv
COPY requirements.txt ./
RUN python3 -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir --requirement requirements.txt
COPY service ./service
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# For wildcards in the list, and for addresses that change: docker run --env EGRESS_INIT_SUPERVISE=1, or
# this line
# ENV EGRESS_INIT_SUPERVISE=1
HEALTHCHECK --interval=10s --timeout=2s CMD ["/egress-init", "check"]
ENTRYPOINT ["/egress-init", "--user", "1000:1000", "--inbound", "8001", "--"]
CMD ["python3", "-m", "service"]
