"""Serving against its limit and against other servers, in one run, in turns.

    python -m benchmarks.serving --peers .venv-bench --json        (make bench-serving)

Every server has the same ONNX file, the same options of onnxruntime and the same photos, and is
paused while another one is measured. What counts is images per CPU-second of the server's
processes: neither the load nor what else the machine does is in it. The limit is our decoding and
the bare model at its best batch size, one thread on each core, with no server around them and the
load of 32 callers beside them. Peers are measured twice where OpenVINO is there: with onnxruntime's
own kernels, and with the engine that `hansang auto` takes.

`--open-loop` sends photos at random times instead, at growing rates, and draws latency against
offered load (PNG).

    __main__ ──► measure (closed loop) ──► subject (a server) ──► load (its callers)
             │     └─► several (photos a call) ──┘     table (ratios, Markdown)
             ├─► open_loop (latency) ────────────┘
             └─► start (until SERVING)
"""
