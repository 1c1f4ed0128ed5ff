/* A node's wall clock, moved: preloaded into every process of a container, it adds to CLOCK_REALTIME what a file says.
 * CLOCK_MONOTONIC is left alone, as it is when somebody sets the clock of a machine.
 *
 * Why not libfaketime, at whose interface this is modelled: up to 0.9.11, which is what Debian 12 and 13 have, every
 * timed wait on the monotonic clock returns at once when FAKETIME_DONT_FAKE_MONOTONIC is set (a JVM then spins; mended
 * in "Fix MONOTONIC pthread_cond_timedwait when REALTIME is set", 2025), a rate counts from each process' own start, and
 * sleeps are scaled by it.
 *
 * The file, mapped by every process: five 64-bit integers in the machine's order, written by one write():
 *     first, anchor_ns, offset_ns, drift_ppb, last         first == last, or it is being written
 *     shown = real + offset_ns + (real - anchor_ns) * drift_ppb / 1e9
 * All zero: the true time. Not covered: absolute sleeps (clock_nanosleep, timerfd, sem_timedwait, mutex_timedlock) on
 * CLOCK_REALTIME, which neither a JVM nor Erlang uses, and the times of files, which stay true.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
/* Times of CLOCK_MONOTONIC count from boot: one below September 2001 is no time of day. */
#define DAY_TIMES_FROM_S 1000000000LL

struct record { int64_t first, anchor_ns, offset_ns, drift_ppb, last; };

static const volatile struct record *shared;
static int (*real_gettime)(clockid_t, struct timespec *);
static int (*real_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*real_clockwait)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);

__attribute__((constructor)) static void prepare(void)
{
    const char *path = getenv("BROKERPROOF_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        void *page = mmap(NULL, sizeof(struct record), PROT_READ, MAP_SHARED, fd, 0);
        if (page != MAP_FAILED)
            shared = page;
        close(fd);
    }
    real_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    /* The oldest version of this symbol has another idea of what a condition is. */
    real_timedwait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!real_timedwait)
        real_timedwait = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    real_clockwait = dlsym(RTLD_NEXT, "pthread_cond_clockwait");
}

static struct record now_in_force(void)
{
    struct record r = {0, 0, 0, 0, 0};
    if (shared)
        do { /* the writer goes upwards, so the reader comes down: equal ends mean a whole record */
            r.last = shared->last;
            __sync_synchronize();
            r.drift_ppb = shared->drift_ppb;
            r.offset_ns = shared->offset_ns;
            r.anchor_ns = shared->anchor_ns;
            __sync_synchronize();
            r.first = shared->first;
        } while (r.first != r.last);
    return r;
}

static int64_t shown(int64_t real_ns)
{
    struct record r = now_in_force();
    return real_ns + r.offset_ns + (int64_t)((__int128)(real_ns - r.anchor_ns) * r.drift_ppb / SECOND);
}

static int64_t real_of(int64_t shown_ns)
{
    struct record r = now_in_force();
    return r.anchor_ns + (int64_t)((__int128)(shown_ns - r.offset_ns - r.anchor_ns) * SECOND / (SECOND + r.drift_ppb));
}

static int64_t ns(const struct timespec *t) { return t->tv_sec * SECOND + t->tv_nsec; }

static void put(struct timespec *t, int64_t value)
{
    t->tv_sec = value / SECOND;
    t->tv_nsec = value % SECOND;
}

static int unmoved(clockid_t id, struct timespec *t)
{
    /* Before our constructor ran, another library's may ask already. */
    return real_gettime ? real_gettime(id, t) : (int)syscall(SYS_clock_gettime, id, t);
}

int clock_gettime(clockid_t id, struct timespec *t)
{
    int result = unmoved(id, t);
    if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        put(t, shown(ns(t)));
    return result;
}

int gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
    struct timespec t;
    (void)tz;
    clock_gettime(CLOCK_REALTIME, &t);
    tv->tv_sec = t.tv_sec;
    tv->tv_usec = t.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (out)
        *out = t.tv_sec;
    return t.tv_sec;
}

int timespec_get(struct timespec *t, int base)
{
    return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, t) == 0 ? base : 0;
}

/* A wait until a time of day ends when the moved clock says so. It looks again every second, since the clock may be moved
 * meanwhile; an early end without a cause ("spurious wakeup") is what every caller has to expect. */
static int64_t until(const struct timespec *shown_end, int *early)
{
    struct timespec t;
    unmoved(CLOCK_REALTIME, &t);
    int64_t end = real_of(ns(shown_end)), look = ns(&t) + SECOND;
    *early = end > look;
    return *early ? look : end > 0 ? end : 0;
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex, const struct timespec *restrict end)
{
    int early, result;
    struct timespec t;
    if (end->tv_sec < DAY_TIMES_FROM_S)
        return real_timedwait(cond, mutex, end);
    put(&t, until(end, &early));
    result = real_timedwait(cond, mutex, &t);
    return result == ETIMEDOUT && early ? 0 : result;
}

int pthread_cond_clockwait(pthread_cond_t *cond, pthread_mutex_t *mutex, clockid_t id, const struct timespec *end)
{
    int early, result;
    struct timespec t;
    if (id != CLOCK_REALTIME)
        return real_clockwait(cond, mutex, id, end);
    put(&t, until(end, &early));
    result = real_clockwait(cond, mutex, id, &t);
    return result == ETIMEDOUT && early ? 0 : result;
}
