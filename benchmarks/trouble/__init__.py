"""Real servers under load and in trouble; the figures as JSON.

    python -m benchmarks.trouble drain|swap|overload|fuzz|hostile    (make trouble: all, in full)

Each scenario is a module; the tests of the service run the same scenarios, shorter, and hold the
same promises.

    __main__ ──► drain | swap | overload | fuzz | hostile ──► benchmarks.rig (servers, calls)
                                            └──► pictures (good ones, and what breaks them)
"""
