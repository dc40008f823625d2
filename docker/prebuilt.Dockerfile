# The same image as docker/Dockerfile makes, from a binary that `make build` has built on this
# machine: `make image`. Quick, and needs no registry.
FROM scratch
COPY egress-init /egress-init
ENTRYPOINT ["/egress-init"]
