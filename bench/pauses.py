#!/usr/bin/env python3
"""How long the machine takes a core away from a loop that does nothing: what no program on it can do better.

usage: taskset -c CORE bench/pauses.py SECONDS MICROSECONDS

Prints how many pauses were longer than MICROSECONDS, and the longest in microseconds, as JSON.
"""

import gc
import json
import sys
import time


def main():
    seconds, above = float(sys.argv[1]), float(sys.argv[2]) * 1e3
    gc.disable()
    count, longest, now = 0, 0, time.perf_counter_ns
    last = now()
    end = last + int(seconds * 1e9)
    while last < end:
        this = now()
        pause, last = this - last, this
        if pause > above:
            count += 1
            longest = max(longest, pause)
    print(json.dumps({"count": count, "us_longest": longest / 1e3}))


if __name__ == "__main__":
    main()
