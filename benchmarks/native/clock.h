/* The clock of all time stamps: the one of Python's time.monotonic_ns(). */
#include <stdint.h>
#include <time.h>

#define SECOND 1000000000LL

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * SECOND + time.tv_nsec;
}
