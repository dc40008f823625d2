/*
 * The floor of a start: every query for A and AAAA at once, in one datagram each, and when the last
 * answer is there the command is executed. No policy, no firewall, no privileges, no list.
 *
 *     floor NAMESERVER COUNT COMMAND
 *
 * asks for name0.example.org to name(COUNT-1).example.org, as benches/figures/start.rs names them.
 * A query without an answer is sent again when nothing has come for 300 ms.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* RFC 1035 section 4: the header with RD, then the one question. Returns the length. */
static size_t query(unsigned char *out, unsigned id)
{
    static const char rest[] = "\7example\3org";
    unsigned char *at = out;
    const unsigned char header[] = { id >> 8, id & 255, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0 };
    memcpy(at, header, sizeof header);
    at += sizeof header;
    int label = sprintf((char *)at + 1, "name%u", id / 2);
    *at = label;
    at += 1 + label;
    memcpy(at, rest, sizeof rest); /* with the final zero, which is the root */
    at += sizeof rest;
    const unsigned char kind[] = { 0, id % 2 ? 28 : 1, 0, 1 };
    memcpy(at, kind, sizeof kind);
    return at + sizeof kind - out;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "floor NAMESERVER COUNT COMMAND\n");
        return 2;
    }
    unsigned count = 2 * atoi(argv[2]), missing = count;
    if (count > 65536)
        return 2;
    char *answered = calloc(count, 1);
    struct sockaddr_in server = { .sin_family = AF_INET, .sin_port = htons(53) };
    if (inet_pton(AF_INET, argv[1], &server.sin_addr) != 1)
        return 2;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&server, sizeof server) < 0)
        fail("nameserver");
    /* All answers at once have to fit; without the privilege it is the usual room. */
    int room = 8 << 20;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    struct timeval silence = { .tv_usec = 300000 };
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &silence, sizeof silence);

    for (int round = 0; missing && round < 20; round++) {
        unsigned char octets[512];
        for (unsigned id = 0; id < count; id++)
            if (!answered[id] && send(fd, octets, query(octets, id), 0) < 0)
                fail("send");
        ssize_t length;
        while (missing && (length = recv(fd, octets, sizeof octets, 0)) > 0) {
            unsigned id = octets[0] << 8 | octets[1];
            if (length < 12 || id >= count || answered[id] || octets[3] & 15 || !octets[7])
                continue;
            answered[id] = 1;
            missing--;
        }
    }
    if (missing) {
        fprintf(stderr, "%u answers are missing\n", missing);
        return 1;
    }
    char *command[] = { argv[3], NULL };
    execv(argv[3], command);
    fail(argv[3]);
}
