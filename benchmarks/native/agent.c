/* An agent for measurements, in place of the CLI: does at once what its prompt says, and nothing else.
 *
 *   agent -p "burst COUNT BYTES"   COUNT lines of BYTES bytes, newline included, as fast as they are taken
 *   agent -p "live RATE COUNT"     COUNT lines, RATE of them a second, each written when it is due
 *   agent -p "turn"                one line
 *   agent -p "sleep"               one line, then nothing until a signal ends it (SIGTERM has its default action)
 *
 * Each line is a JSON object with "t", the nanoseconds of CLOCK_MONOTONIC when it was made. The last line has
 * the type "result", as the CLI's has. Other arguments are ignored.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"

/* Print one line of that many bytes, or as short as it can be. */
static void print_line(long number, long count, long bytes)
{
    char head[160];
    const char *type = number == count - 1 ? "result" : "assistant";
    int length = snprintf(head, sizeof head, "{\"type\":\"%s\",\"n\":%ld,\"t\":%lld,\"pad\":\"", type, number,
                          (long long)now());
    fwrite(head, 1, length, stdout);
    /* 64 bytes as they stand in the CLI's lines: program text, escaped once already. */
    static const char text[] = "    if name == \\\"main\\\":\\n        return load(path)[\\\"k\\\"] + 1\\n#";
    long rest = bytes - length - 3;
    for (; rest >= (long)sizeof text - 1; rest -= sizeof text - 1)
        fwrite(text, 1, sizeof text - 1, stdout);
    for (; rest > 0; rest--)
        putc('.', stdout);
    fputs("\"}\n", stdout);
    fflush(stdout); /* as the CLI does: a write for every line */
}

static void burst(long count, long bytes)
{
    for (long number = 0; number < count; number++)
        print_line(number, count, bytes);
}

static void live(long rate, long count)
{
    int64_t due = now();
    for (long number = 0; number < count; number++) {
        print_line(number, count, 120);
        due += SECOND / rate;
        struct timespec until = {due / SECOND, due % SECOND};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    }
}

int main(int argc, char **argv)
{
    const char *prompt = "";
    for (int index = 1; index + 1 < argc; index++)
        if (strcmp(argv[index], "-p") == 0) {
            prompt = argv[index + 1];
            break;
        }
    static char buffer[1 << 16];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    long first, second;
    if (sscanf(prompt, "burst %ld %ld", &first, &second) == 2)
        burst(first, second);
    else if (sscanf(prompt, "live %ld %ld", &first, &second) == 2 && first > 0)
        live(first, second);
    else if (strcmp(prompt, "turn") == 0)
        print_line(0, 1, 120);
    else if (strcmp(prompt, "sleep") == 0) {
        print_line(0, 1, 120);
        for (;;)
            pause();
    } else {
        fprintf(stderr, "agent: unknown prompt: %s\n", prompt);
        return 2;
    }
    return 0;
}
