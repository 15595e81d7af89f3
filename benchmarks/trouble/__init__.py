"""Drain, swap, overload and bad images, against real servers under load; the figures as JSON.

    python -m benchmarks.trouble drain|swap|overload|fuzz        (make trouble: all, at full length)

Each scenario is a module; the tests of the service run the same scenarios, shorter, and hold the
same promises.

    __main__ ──► drain | swap | overload | fuzz ──► benchmarks.rig (servers, calls, tallies)
                                              └──► pictures (good ones, and what breaks them)
"""
