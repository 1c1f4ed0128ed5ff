/* Timed waits under the library: as long as they say, on either clock, however the wall clock was moved. Run with a record
 * that is one hour ahead and gains half a second per second; says what is wrong, or nothing. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static double now(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* Waits 0.3 s on that clock; returns how many seconds of the monotonic one that took. */
static double waited(clockid_t id, int by_clock)
{
    pthread_cond_t cond;
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, id);
    pthread_cond_init(&cond, &attributes);
    double begin = now(CLOCK_MONOTONIC), end = now(id) + 0.3;
    struct timespec t = {.tv_sec = (time_t)end, .tv_nsec = (long)((end - (time_t)end) * 1e9)};
    pthread_mutex_lock(&mutex);
    int result = by_clock ? pthread_cond_clockwait(&cond, &mutex, id, &t) : pthread_cond_timedwait(&cond, &mutex, &t);
    pthread_mutex_unlock(&mutex);
    return result == ETIMEDOUT ? now(CLOCK_MONOTONIC) - begin : -1;
}

static int bad(const char *what, double seen, double least, double most)
{
    if (seen >= least && seen <= most)
        return 0;
    printf("%s: %.3f s, expected %.3f to %.3f\n", what, seen, least, most);
    return 1;
}

int main(void)
{
    int wrong = 0;
    for (int by_clock = 0; by_clock < 2; by_clock++) {
        wrong += bad("a wait on the monotonic clock", waited(CLOCK_MONOTONIC, by_clock), 0.29, 5);
        wrong += bad("a wait on the wall clock", waited(CLOCK_REALTIME, by_clock), 0.19, 5);
    }
    double real = now(CLOCK_REALTIME), mono = now(CLOCK_MONOTONIC);
    waited(CLOCK_MONOTONIC, 0);
    double rate = (now(CLOCK_REALTIME) - real) / (now(CLOCK_MONOTONIC) - mono);
    return wrong + bad("the wall clock's speed", rate, 1.3, 1.7);
}
