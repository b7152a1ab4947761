/* The client of the measurements: posts turns on many connections and reads their streams, in one thread.
 *
 *   load PORT CONNECTIONS TURNS SECONDS DEADLINE FRESH STAMPS PROMPT
 *
 * Each connection makes TURNS turns one after another, or, where SECONDS is not 0, starts no more of them after
 * that time. A connection is used again where the server keeps it, unless FRESH is 1. After DEADLINE seconds all
 * that is open has failed. Prints "ready" once each connection has had its first event, and for every turn
 *
 *   turn START FIRST END EVENTS BYTES STATUS WHY
 *
 * (nanoseconds of CLOCK_MONOTONIC; bytes of the events with their framing; WHY is "ok" or what went wrong).
 * For every event with a time stamp, the file STAMPS ("-": none) gets two int64: when it was made, when read.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "lines.h"

#define HEAD_BYTES 16384
#define READ_BYTES (1 << 18)
#define MOST_FAILURES 5000

enum state { CONNECTING, HEAD, SIZE, DATA, DATA_END, TRAILER, CLOSED };

struct connection {
    int fd;
    enum state state;
    int reused, keep, heard, ready, completed, status;
    long turns;
    int64_t start, first, events, bytes;
    size_t left;        /* of the chunk */
    size_t head_length; /* of what head holds: the response's head, then a line of the framing */
    char head[HEAD_BYTES + 1];
    struct lines lines;
};

static struct sockaddr_in address = {.sin_family = AF_INET};
static struct connection *connections;
static int epoll_fd, fresh;
static long count, most_turns, open_count, ready_count, failures;
static int64_t until, deadline;
static char request[4096];
static size_t request_length;
static FILE *stamps;

static void begin_turn(struct connection *c);

static void hang_up(struct connection *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->state = CLOSED;
}

static void end_turn(struct connection *c, const char *why)
{
    int64_t end = now();
    if (strcmp(why, "ok") != 0)
        failures++;
    printf("turn %lld %lld %lld %lld %lld %d %s\n", (long long)c->start, (long long)c->first, (long long)end,
           (long long)c->events, (long long)c->bytes, c->status, why);
    c->turns++;
    if (!c->keep || fresh || strcmp(why, "ok") != 0)
        hang_up(c);
    if (c->turns < most_turns && (!until || end < until) && end < deadline && failures < MOST_FAILURES) {
        begin_turn(c);
        return;
    }
    hang_up(c);
    open_count--;
}

static void send_request(struct connection *c)
{
    c->head_length = c->lines.length = 0;
    c->state = HEAD;
    /* A few hundred bytes into an empty socket buffer: never cut short. A stale connection shows when read. */
    if (send(c->fd, request, request_length, MSG_NOSIGNAL) < 0 && !c->reused)
        end_turn(c, "cannot send");
}

static void open_connection(struct connection *c)
{
    int on = 1;
    c->reused = 0;
    c->state = CONNECTING;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        perror("socket");
        exit(1);
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        end_turn(c, "cannot connect");
}

static void begin_turn(struct connection *c)
{
    c->start = now();
    c->first = c->events = c->bytes = 0;
    c->heard = c->completed = c->status = 0;
    if (c->fd < 0) {
        open_connection(c);
    } else {
        c->reused = 1;
        send_request(c);
    }
}

/* Take one line of the stream: an event, the empty line after it, or a comment. */
static void take_line(struct connection *c, const char *line, size_t length, int64_t time)
{
    if (!begins(line, length, "data: {"))
        return;
    if (!c->first)
        c->first = time;
    if (!c->ready) {
        c->ready = 1;
        if (++ready_count == count) {
            puts("ready");
            fflush(stdout);
        }
    }
    c->bytes += length + 2;
    /* The type stands first or last: servers differ. What a line of the agent says cannot look like it, as
     * its quotation marks are escaped. */
    if (begins(line, length, "data: {\"type\":\"output\"") || ends(line, length, ",\"type\":\"output\"}")) {
        c->events++;
        const char *stamp = stamps ? memmem(line, length < 120 ? length : 120, "\\\"t\\\":", 6) : NULL;
        if (stamp) {
            int64_t pair[2] = {strtoll(stamp + 6, NULL, 10), time};
            fwrite(pair, sizeof pair, 1, stamps);
        }
    } else if (begins(line, length, "data: {\"type\":\"completed\"")) {
        c->completed = 1;
    }
}

static void take_body(struct connection *c, const char *data, size_t length, int64_t time)
{
    const char *line;
    size_t line_length;
    while (length && (line = next_line(&c->lines, &data, &length, &line_length)))
        take_line(c, line, line_length, time);
}

/* Collect bytes until those collected end with `mark`; return how many were taken, or -1 if too many. */
static long collect(struct connection *c, const char *data, size_t length, const char *mark, int *whole)
{
    size_t wanted = strlen(mark);
    *whole = 0;
    for (size_t taken = 0; taken < length; taken++) {
        if (c->head_length == HEAD_BYTES)
            return -1;
        c->head[c->head_length++] = data[taken];
        if (c->head_length >= wanted && !memcmp(c->head + c->head_length - wanted, mark, wanted)) {
            c->head[c->head_length] = 0;
            *whole = 1;
            return taken + 1;
        }
    }
    return length;
}

/* Take what has come, until the turn has ended, well or not. */
static void take(struct connection *c, const char *data, size_t length, int64_t time)
{
    int whole;
    c->heard = 1;
    while (length) {
        long taken = 0;
        if (c->state == DATA) {
            taken = length < c->left ? length : c->left;
            take_body(c, data, taken, time);
            c->left -= taken;
            if (!c->left)
                c->state = DATA_END;
        } else {
            taken = collect(c, data, length, c->state == HEAD ? "\r\n\r\n" : "\r\n", &whole);
            if (taken < 0)
                { end_turn(c, "malformed response"); return; }
            if (whole && c->state == HEAD) {
                c->status = atoi(c->head + 9);
                c->keep = !strcasestr(c->head, "\r\nconnection: close") && begins(c->head, 9, "HTTP/1.1 ");
                if (c->status != 200)
                    { end_turn(c, "refused"); return; }
                if (!strcasestr(c->head, "\r\ntransfer-encoding: chunked"))
                    { end_turn(c, "not chunked"); return; }
                c->state = SIZE;
            } else if (whole && c->state == SIZE) {
                c->left = strtoul(c->head, NULL, 16);
                c->state = c->left ? DATA : TRAILER;
            } else if (whole && c->state == DATA_END) {
                c->state = SIZE;
            } else if (whole && c->state == TRAILER && c->head_length == 2) {
                { end_turn(c, c->completed ? "ok" : "not completed"); return; }
            }
            if (whole)
                c->head_length = 0;
        }
        data += taken;
        length -= taken;
    }
}

static void serve(struct connection *c, uint32_t events)
{
    static char buffer[READ_BYTES];
    if (c->state == CONNECTING && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) {
        int error = 0;
        socklen_t length = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
        if (error) {
            end_turn(c, "cannot connect");
            return;
        }
        send_request(c);
    }
    while (c->state != CLOSED && c->state != CONNECTING) {
        ssize_t length = read(c->fd, buffer, sizeof buffer);
        if (length < 0 && errno == EAGAIN)
            return;
        if (length <= 0) {
            if (c->reused && !c->heard) { /* closed by the server while it was idle */
                hang_up(c);
                open_connection(c);
            } else {
                end_turn(c, "cut off");
            }
            return;
        }
        take(c, buffer, length, now());
    }
}

int main(int argc, char **argv)
{
    if (argc != 9) {
        fprintf(stderr, "usage: load PORT CONNECTIONS TURNS SECONDS DEADLINE FRESH STAMPS PROMPT\n");
        return 2;
    }
    address.sin_port = htons(atoi(argv[1]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    count = open_count = atol(argv[2]);
    most_turns = atol(argv[3]);
    until = atof(argv[4]) > 0 ? now() + (int64_t)(atof(argv[4]) * SECOND) : 0;
    deadline = now() + (int64_t)(atof(argv[5]) * SECOND);
    fresh = atoi(argv[6]);
    stamps = strcmp(argv[7], "-") ? fopen(argv[7], "wb") : NULL;
    char body[1024];
    int length = snprintf(body, sizeof body, "{\"agent_type\":\"bench\",\"prompt\":\"%s\"}", argv[8]);
    request_length = snprintf(request, sizeof request,
                              "POST /spawn HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                              "content-length: %d\r\n\r\n%s", length, body);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc(count, sizeof *connections);
    for (long index = 0; index < count; index++) {
        connections[index].fd = -1;
        begin_turn(&connections[index]);
    }
    while (open_count > 0 && now() < deadline) {
        struct epoll_event ready[256];
        int found = epoll_wait(epoll_fd, ready, 256, 100);
        for (int index = 0; index < found; index++)
            serve(ready[index].data.ptr, ready[index].events);
    }
    for (long index = 0; index < count; index++)
        if (connections[index].state != CLOSED)
            end_turn(&connections[index], "not ended in time");
    if (stamps)
        fclose(stamps);
    return 0;
}
