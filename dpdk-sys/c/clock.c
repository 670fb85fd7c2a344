/* How fast the time stamp counter runs, where the CPU does not tell: DPDK would sleep for 100 ms in
 * rte_eal_init to find out, which a director that restarts spends without forwarding. A tenth of that
 * is enough. Linked into programs that ask for it: --wrap=get_tsc_freq_arch, see shuntd/build.rs. */
#include <stdint.h>
#include <time.h>

#include <rte_cycles.h>

uint64_t __real_get_tsc_freq_arch(void);
uint64_t __wrap_get_tsc_freq_arch(void);

struct instant {
    int64_t ns;
    uint64_t cycles;
};

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* Both clocks at the same time: of some readings the one that was not interrupted. */
static struct instant now(void) {
    struct instant best = {0, 0};
    int64_t shortest = INT64_MAX;
    for (int i = 0; i < 8; i++) {
        int64_t before = now_ns();
        uint64_t cycles = rte_rdtsc();
        int64_t took = now_ns() - before;
        if (took < shortest) {
            shortest = took;
            best = (struct instant){before + took / 2, cycles};
        }
    }
    return best;
}

/* Hz; 0: DPDK shall find out itself. */
uint64_t __wrap_get_tsc_freq_arch(void) {
    uint64_t told = __real_get_tsc_freq_arch();
    if (told != 0) return told;
    const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
    struct instant begin = now();
    nanosleep(&pause, NULL);
    struct instant end = now();
    if (end.ns <= begin.ns || end.cycles <= begin.cycles) return 0;
    double hz = (double)(end.cycles - begin.cycles) * 1e9 / (double)(end.ns - begin.ns);
    /* What the readings are good for. */
    const double step = 1e5;
    return (uint64_t)(hz / step + 0.5) * (uint64_t)step;
}
