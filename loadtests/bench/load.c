/* The load generator of bin/bench: many sockets or HTTP connections from one thread that is never the bottleneck.
 *
 *   load ws   port=P targets=FILE [echo=1] [in_flight=N | rate=R] [warm_s=S] [seconds=S] [pid=P]
 *             [ramp=SOCKETS_PER_S] [period_s=S] [drop_at_s=S] [drop=SHARE]
 *             [once=1]
 *   load http port=P targets=FILE connections=N [warm_s=S] [seconds=S] [pid=P]
 *
 * `targets` holds one line for each socket (path, then the token that opens it), for http one request's path and token.
 * Closed loop: `in_flight` frames are on their way, over all sockets in turn. Open loop: `rate` frames a second, spread
 * evenly; a latency counts from when the frame was due. With `ramp` sockets open all the time and each sends a frame
 * every `period_s`; a line of figures comes every second. With once=1 each sends one frame and is silent. `pid`: whose CPU time to report (utime + stime).
 *
 * It speaks the session socket as a player does: opening, `hello`, telemetry from `hello.seq` + 1 on, `ack`, `decision`,
 * pong. With echo=1 the peer is a bare echo, and a message that comes back is the answer to the oldest frame.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { OPENING_MOST = 64, WINDOW = 64, IN_BYTES = 16384, LINE = 2048 };
static const int64_t PATIENCE_NS = 20 * 1000000000LL;
enum { CLOSED, CONNECTING, UPGRADING, GREETING, LIVE };

typedef struct {
    int fd, state, in_use;
    uint32_t sent, answered; /* highest seq sent and acknowledged */
    int64_t due[WINDOW];     /* when the frames under way were due, ns, by seq */
    int64_t next_due, opened_at;
    char *target;
    unsigned char *in;
    size_t in_size;
} Conn;

typedef struct { uint32_t *us; size_t count, room; } Latencies;

static Conn *conns;
static int conn_count, opening, live, was_live, refused_503, refused_other, lost, port, epoll_fd, timer_fd, is_http, is_echo;
static int next_to_open, outstanding, in_flight, measuring, drop_code_4503;
static double rate, ramp, period_s, warm_s = 1, seconds = 3, drop_at_s, drop;
static int server_pid, once;
static int64_t acked, acked_second, decisions, errors;
static Latencies acks, decided, second;
static int *queue; /* idle sockets (closed loop) or sockets by when they are due (open loop): a ring */
static int queue_head, queue_size;
static char request[LINE];
static size_t request_size;
static const char *base_targets;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void fail(const char *what) { perror(what); exit(1); }

static void keep(Latencies *l, int64_t ns) {
    if (l->count == l->room) {
        l->room = l->room ? 2 * l->room : 1 << 16;
        if (!(l->us = realloc(l->us, l->room * sizeof *l->us))) fail("realloc");
    }
    l->us[l->count++] = ns < 0 ? 0 : (uint32_t)(ns / 1000);
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static double percentile_ms(Latencies *l, double share) {
    if (!l->count) return -1;
    return l->us[(size_t)(share * (double)(l->count - 1))] / 1000.0;
}

static double cpu_s(int pid) {
    char path[64], line[LINE];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    size_t n = fread(line, 1, sizeof line - 1, f);
    fclose(f);
    line[n] = 0;
    char *rest = strrchr(line, ')');
    unsigned long user, system;
    if (!rest || sscanf(rest + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2) return 0;
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static void push(int i) { queue[(queue_head + queue_size++) % conn_count] = i; }

static int pop(void) {
    int i = queue[queue_head];
    queue_head = (queue_head + 1) % conn_count;
    queue_size--;
    return i;
}

static void shut(Conn *c, int counted) {
    if (c->state == CLOSED) return;
    if (c->state == LIVE) {
        live--;
        if (counted) lost++;
        outstanding -= (int)(c->sent - c->answered);
    } else opening--;
    close(c->fd);
    free(c->in);
    c->in = NULL;
    c->state = CLOSED;
}

static void put(Conn *c, const void *bytes, size_t size) {
    /* A peer that does not take it is slower than we can bear: it counts as an error, and nothing is kept for later. */
    if (send(c->fd, bytes, size, MSG_NOSIGNAL) != (ssize_t)size) { errors++; shut(c, 1); }
}

static size_t frame(unsigned char *out, int opcode, const char *payload, size_t size) {
    static const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    size_t head = 2;
    out[0] = (unsigned char)(0x80 | opcode);
    if (size < 126) out[1] = (unsigned char)(0x80 | size);
    else { out[1] = 0x80 | 126; out[2] = (unsigned char)(size >> 8); out[3] = (unsigned char)size; head = 4; }
    memcpy(out + head, mask, 4);
    for (size_t i = 0; i < size; i++) out[head + 4 + i] = (unsigned char)payload[i] ^ mask[i & 3];
    return head + 4 + size;
}

/* A second of a playing lecture. The network is good and bad by turns, so that decisions change. */
static void report(Conn *c, int64_t due) {
    static const int bitrates[] = {300, 800, 1600, 3200};
    char text[LINE];
    unsigned char out[LINE];
    uint32_t seq = ++c->sent;
    int good = (seq / 24 + (uint32_t)(c - conns)) % 2, br = bitrates[(seq / 24) % 4], ms = good ? 480 + (int)(seq % 9) : 3900;
    int size = snprintf(text, sizeof text,
        "{\"type\":\"telemetry\",\"seq\":%u,\"position\":%u.25,\"cmcd\":{\"br\":%d,\"bl\":%u,\"mtp\":%d,\"d\":4000,"
        "\"sta\":\"p\",\"pr\":1},\"segments\":[{\"br\":%d,\"bytes\":%d,\"ms\":%d,\"ttfb_ms\":31}]}",
        seq, seq, br, 4000 + 400 * (seq % 24), good ? 5200 : 640, br, br * 500, ms);
    c->due[seq % WINDOW] = due;
    outstanding++;
    put(c, out, frame(out, 1, text, (size_t)size));
}

static void begin_live(Conn *c, int i) {
    opening--; live++; was_live++;
    c->state = LIVE;
    if (ramp > 0) { c->next_due = now_ns() + (int64_t)(period_s * 1e9); push(i); }
}

static void answered(Conn *c, uint32_t seq, int64_t now) {
    if (seq > c->sent) return;
    for (; c->answered < seq; c->answered++) {
        int64_t ns = now - c->due[(c->answered + 1) % WINDOW];
        outstanding--;
        acked_second++;
        if (ramp > 0) keep(&second, ns);
        if (measuring) { acked++; keep(&acks, ns); }
    }
}

static void message(Conn *c, int i, const unsigned char *text, size_t size, int64_t now) {
    if (is_echo) {
        answered(c, c->answered + 1, now);
    } else {
        char head[128];
        size_t n = size < sizeof head - 1 ? size : sizeof head - 1;
        memcpy(head, text, n);
        head[n] = 0;
        if (c->state == GREETING) {
            char *seq = strstr(head, "\"seq\":");
            if (!seq) { errors++; shut(c, 0); return; }
            c->sent = c->answered = (uint32_t)strtoul(seq + 6, NULL, 10);
            begin_live(c, i);
        } else if (!strncmp(head, "{\"type\":\"ack\",\"seq\":", 20)) {
            uint32_t before = c->answered;
            answered(c, (uint32_t)strtoul(head + 20, NULL, 10), now);
            if (c->answered == before) return;
        } else {
            if (!strncmp(head, "{\"type\":\"decision\"", 18)) {
                decisions++;
                if (measuring && c->sent > c->answered) keep(&decided, now - c->due[(c->answered + 1) % WINDOW]);
            } else if (!strncmp(head, "{\"type\":\"error\"", 15)) errors++;
            return;
        }
    }
    if (in_flight && c->state == LIVE && c->sent == c->answered) push(i);
}

/* Whole WebSocket frames in what came; the server's are never masked nor fragmented. */
static void frames(Conn *c, int i, int64_t now) {
    size_t at = 0;
    while (c->state >= GREETING && c->in_size - at >= 2) {
        unsigned char *f = c->in + at;
        size_t size = f[1] & 0x7f, head = 2;
        if (size == 126) { if (c->in_size - at < 4) break; size = (size_t)f[2] << 8 | f[3]; head = 4; }
        if (c->in_size - at < head + size) break;
        int opcode = f[0] & 0x0f;
        at += head + size;
        if (opcode == 1) message(c, i, f + head, size, now);
        else if (opcode == 9) { unsigned char out[LINE]; put(c, out, frame(out, 10, (char *)f + head, size < 125 ? size : 125)); }
        else if (opcode == 8) {
            if (size >= 2 && (f[head] << 8 | f[head + 1]) == 4503) drop_code_4503++;
            shut(c, 1);
        }
    }
    if (c->state == CLOSED) return;
    memmove(c->in, c->in + at, c->in_size -= at);
}

static void upgraded(Conn *c, int i, int64_t now) {
    c->in[c->in_size] = 0;
    char *end = strstr((char *)c->in, "\r\n\r\n");
    if (!end) return;
    int status = atoi((char *)c->in + 9);
    if (status != 101) {
        if (status == 503) refused_503++; else refused_other++;
        shut(c, 0);
        return;
    }
    size_t head = (size_t)(end + 4 - (char *)c->in);
    memmove(c->in, c->in + head, c->in_size -= head);
    if (is_echo) { begin_live(c, i); if (in_flight) push(i); } else c->state = GREETING;
    frames(c, i, now);
}

static void http_answer(Conn *c, int64_t now) {
    c->in[c->in_size] = 0;
    char *end = strstr((char *)c->in, "\r\n\r\n"), *length = strcasestr((char *)c->in, "\r\ncontent-length:");
    if (!end) return;
    size_t whole = (size_t)(end + 4 - (char *)c->in) + (length && length < end ? strtoul(length + 17, NULL, 10) : 0);
    if (c->in_size < whole) return;
    if (strncmp((char *)c->in + 9, "200", 3)) errors++;
    c->in_size = 0;
    if (measuring) { acked++; keep(&acks, now - c->opened_at); }
    c->opened_at = now;
    put(c, request, request_size);
}

static void receive(Conn *c, int i) {
    ssize_t got = recv(c->fd, c->in + c->in_size, IN_BYTES - 1 - c->in_size, 0);
    if (got <= 0) {
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (c->state != LIVE) refused_other++;
        shut(c, 1);
        return;
    }
    c->in_size += (size_t)got;
    int64_t now = now_ns();
    if (is_http) http_answer(c, now);
    else if (c->state == UPGRADING) upgraded(c, i, now);
    else frames(c, i, now);
}

static void open_one(int i) {
    Conn *c = &conns[i];
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    /* 127.0.0.1 has 28,000 ports to call from, enough for all sockets of a run. */
    if ((c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)) < 0) fail("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) fail("connect");
    if (!(c->in = malloc(IN_BYTES))) fail("malloc");
    c->in_size = 0;
    c->state = CONNECTING;
    opening++;
    struct epoll_event e = {.events = EPOLLOUT, .data.u32 = (uint32_t)i};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e);
}

static void connected(Conn *c, int i) {
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
    if (is_http) {
        opening--; live++;
        c->state = LIVE;
        c->opened_at = now_ns();
        put(c, request, request_size);
        return;
    }
    char path[LINE] = "/", token[LINE] = "", text[3 * LINE];
    sscanf(c->target, "%2047s %2047s", path, token);
    int size = snprintf(text, sizeof text,
        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s%s%s\r\n", path, port,
        *token ? "Sec-WebSocket-Protocol: lectern.v1, bearer." : "", token, *token ? "\r\n" : "");
    c->state = UPGRADING;
    put(c, text, (size_t)size);
}

static void wake_at(int64_t at) {
    int64_t in = at - now_ns();
    if (in < 1000) in = 1000;
    struct itimerspec t = {.it_value = {in / 1000000000, in % 1000000000}};
    timerfd_settime(timer_fd, 0, &t, NULL);
}

static void turn(int wait_ms) {
    struct epoll_event events[512];
    int n = epoll_wait(epoll_fd, events, 512, wait_ms);
    for (int k = 0; k < n; k++) {
        uint32_t i = events[k].data.u32;
        if (i == UINT32_MAX) { uint64_t ticks; if (read(timer_fd, &ticks, 8) < 0 && errno != EAGAIN) fail("timerfd"); continue; }
        Conn *c = &conns[i];
        if (c->state == CONNECTING) connected(c, (int)i);
        else if (c->state != CLOSED) receive(c, (int)i);
    }
}

static void open_all(void) {
    int64_t until = now_ns() + 120000000000;
    while ((next_to_open < conn_count || opening) && now_ns() < until) {
        while (opening < OPENING_MOST && next_to_open < conn_count) open_one(next_to_open++);
        turn(100);
    }
}

static void send_due(int64_t now) {
    if (in_flight) {
        while (outstanding < in_flight && queue_size) {
            Conn *c = &conns[pop()];
            if (c->state == LIVE) report(c, now);
        }
        return;
    }
    while (queue_size) {
        Conn *c = &conns[queue[queue_head]];
        if (c->state == LIVE && c->next_due > now) { wake_at(c->next_due); break; }
        int i = pop();
        if (c->state != LIVE) continue;
        if (c->sent - c->answered < WINDOW) report(c, c->next_due); else errors++;
        c->next_due += (int64_t)(period_s * 1e9);
        if (c->state == LIVE) push(i);
    }
}

static void tell_second(double at_s) {
    qsort(second.us, second.count, sizeof *second.us, ascending);
    printf("{\"at_s\":%.1f,\"live\":%d,\"refused\":%d,\"shed\":%d,\"lost\":%d,\"frames\":%lld,\"p50_ms\":%.2f,\"p99_ms\":%.2f}\n", at_s,
           live, refused_503, drop_code_4503, lost, (long long)acked_second, percentile_ms(&second, 0.5), percentile_ms(&second, 0.99));
    fflush(stdout);
    second.count = 0;
    acked_second = 0;
}

/* A time that the machine stood still in is no measurement: it goes on, for a while, until there is something to tell. */
static int too_little(int64_t for_ns, double cpu) {
    return (is_http || in_flight) && for_ns < PATIENCE_NS && !(acked && (!server_pid || cpu_s(server_pid) > cpu));
}

static void run(void) {
    int64_t start = now_ns(), begin = start + (int64_t)(warm_s * 1e9), end = begin + (int64_t)(seconds * 1e9);
    int64_t told = start, measured_from = 0, now;
    double cpu = 0, own = 0, ramped = 0;
    struct rusage usage;
    while ((now = now_ns()) < end || too_little(now - end, cpu)) {
        if (!measuring && now >= begin) {
            measuring = 1;
            measured_from = now;
            cpu = cpu_s(server_pid);
            getrusage(RUSAGE_SELF, &usage);
            own = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
        }
        if (ramp > 0) {
            double due = ramp * (double)(now - start) / 1e9;
            for (; ramped < due && next_to_open < conn_count && opening < OPENING_MOST; ramped++) open_one(next_to_open++);
            if (now - told >= 1000000000) { tell_second((double)(now - start) / 1e9); told += 1000000000; }
            if (drop > 0 && (double)(now - start) / 1e9 >= drop_at_s) {
                int leaving = (int)(drop * live);
                for (int i = 0; leaving && i < conn_count; i++)
                    if (conns[i].state == LIVE) { shut(&conns[i], 0); leaving--; }
                drop = 0;
            }
        }
        if (!is_http) send_due(now);
        turn(is_http || in_flight ? 50 : 10);
    }
    double took = (double)(now_ns() - measured_from) / 1e9;
    cpu = cpu_s(server_pid) - cpu;
    getrusage(RUSAGE_SELF, &usage);
    own = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6 - own;
    qsort(acks.us, acks.count, sizeof *acks.us, ascending);
    qsort(decided.us, decided.count, sizeof *decided.us, ascending);
    printf("{\"live\":%d,\"refused\":%d,\"refused_otherwise\":%d,\"lost\":%d,\"errors\":%lld,\"answers\":%lld,\"seconds\":%.3f,"
           "\"per_s\":%.1f,\"cpu_us\":%.3f,\"server_share\":%.3f,\"own_share\":%.3f,\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"p999_ms\":%.3f,"
           "\"decisions\":%zu,\"decision_p50_ms\":%.3f,\"decision_p99_ms\":%.3f}\n",
           live, refused_503, refused_other, lost, (long long)errors, (long long)acked, took, (double)acked / took,
           acked ? cpu * 1e6 / (double)acked : 0, cpu / took, own / took, percentile_ms(&acks, 0.5), percentile_ms(&acks, 0.99),
           percentile_ms(&acks, 0.999), decided.count, percentile_ms(&decided, 0.5), percentile_ms(&decided, 0.99));
}

static void read_targets(void) {
    FILE *f = fopen(base_targets, "r");
    if (!f) fail(base_targets);
    char line[LINE];
    int room = 0, lines = 0;
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        if (is_http) {
            char path[LINE], token[LINE];
            if (sscanf(line, "%2047s %2047s", path, token) != 2) fail("a target is a path and a token");
            request_size = (size_t)snprintf(request, sizeof request,
                "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer %s\r\n\r\n", path, port, token);
            break;
        }
        if (lines == room) {
            room = room ? 2 * room : 1024;
            if (!(conns = realloc(conns, (size_t)room * sizeof *conns))) fail("realloc");
        }
        memset(&conns[lines], 0, sizeof *conns);
        conns[lines++].target = strdup(line);
    }
    fclose(f);
    if (is_http) { if (!(conns = calloc((size_t)conn_count, sizeof *conns))) fail("calloc"); }
    else conn_count = lines;
    if (!(queue = calloc((size_t)conn_count + 1, sizeof *queue))) fail("calloc");
}

int main(int argc, char **argv) {
    if (argc < 2) { fprintf(stderr, "usage: load ws|http name=value ...\n"); return 2; }
    is_http = !strcmp(argv[1], "http");
    for (int k = 2; k < argc; k++) {
        char *value = strchr(argv[k], '=');
        if (!value) { fprintf(stderr, "name=value, not %s\n", argv[k]); return 2; }
        *value++ = 0;
        if (!strcmp(argv[k], "port")) port = atoi(value);
        else if (!strcmp(argv[k], "targets")) base_targets = value;
        else if (!strcmp(argv[k], "connections")) conn_count = atoi(value);
        else if (!strcmp(argv[k], "echo")) is_echo = atoi(value);
        else if (!strcmp(argv[k], "in_flight")) in_flight = atoi(value);
        else if (!strcmp(argv[k], "rate")) rate = atof(value);
        else if (!strcmp(argv[k], "ramp")) ramp = atof(value);
        else if (!strcmp(argv[k], "period_s")) period_s = atof(value);
        else if (!strcmp(argv[k], "warm_s")) warm_s = atof(value);
        else if (!strcmp(argv[k], "seconds")) seconds = atof(value);
        else if (!strcmp(argv[k], "drop_at_s")) drop_at_s = atof(value);
        else if (!strcmp(argv[k], "drop")) drop = atof(value);
        else if (!strcmp(argv[k], "once")) once = atoi(value);
        else if (!strcmp(argv[k], "pid")) server_pid = atoi(value);
        else { fprintf(stderr, "there is no %s\n", argv[k]); return 2; }
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    read_targets();
    if ((epoll_fd = epoll_create1(0)) < 0 || (timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)) < 0) fail("epoll");
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = UINT32_MAX};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &e);
    if (ramp <= 0) open_all();
    if (!is_http && ramp <= 0) {
        int64_t now = now_ns();
        period_s = rate > 0 ? (double)live / rate : period_s;
        queue_size = 0;
        for (int i = 0, k = 0; i < conn_count; i++)
            if (conns[i].state == LIVE && (in_flight || rate > 0)) {
                conns[i].next_due = now + (int64_t)(period_s * 1e9 * k++ / live);
                push(i);
            }
    }
    if (once)
        for (int i = 0; i < conn_count; i++)
            if (conns[i].state == LIVE) report(&conns[i], now_ns());
    run();
    return 0;
}
