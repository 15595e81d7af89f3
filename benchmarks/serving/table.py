"""What the measurements say: ratios to the limit and to the best peer, and a table."""

from typing import Any

from benchmarks.serving.subject import BARE, EMPTY, PEERS, WITH_OPENVINO

CALLERS = (1, 8, 32)
LIMIT, LIMIT_AUTO = "limit", "limit auto"


def ratios(sizes: dict[str, Any], names: list[str]) -> dict[str, dict[str, float]]:
    """Compare, by image size; speeds are images per CPU-second of 32 callers.

    `same_engine` and `p99` are the worse of two comparisons: fp32 with peers on onnxruntime, and
    `auto` with peers on the engine of `auto`.
    """
    own = [name for name in names if name in PEERS]
    same = [name for name in names if name in WITH_OPENVINO]
    found: dict[str, dict[str, float]] = {}
    for size, of in sizes.items():
        figures = {
            "fp32_over_limit": _speed(of, "hansang fp32") / of[LIMIT]["images_per_cpu_s"],
            "auto_over_limit": _speed(of, "hansang auto") / of[LIMIT_AUTO]["images_per_cpu_s"],
        }
        if BARE in names:
            figures["overhead_over_grpc_aio"] = _speed(of, BARE, "1") / _speed(of, EMPTY, "1")
            figures["overhead_over_grpc_aio_at_32"] = _speed(of, BARE) / _speed(of, EMPTY)
        if own:
            best = max(_speed(of, name) for name in own)
            pairs = [("hansang fp32", own), *([("hansang auto", same)] if same else [])]
            figures |= {
                "auto_over_best_peer": _speed(of, "hansang auto") / best,
                "int8_over_best_peer": _speed(of, "hansang int8") / best,
                "same_engine_over_best_peer": min(
                    _speed(of, mine) / max(_speed(of, name) for name in peers)
                    for mine, peers in pairs
                ),
                "p99_over_best_peer": max(
                    of[mine][callers]["p99_ms"] / min(of[name][callers]["p99_ms"] for name in peers)
                    for mine, peers in pairs
                    for callers in map(str, CALLERS)
                ),
            }
        for key, value in figures.items():
            found.setdefault(key, {})[size] = round(value, 3)
    return found


def _speed(of: dict[str, Any], name: str, callers: str = "32") -> float:
    return float(of[name][callers]["images_per_cpu_s"])


def table(found: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = []
    for size, of in found["sizes"].items():
        lines += [
            f"| {size} px | 1 caller: images/s, p50, p99 ms | 8 | 32 | images per CPU-s at 32"
            " | MB | start s |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *(
                f"| {name}, batches of {of[name]['batch']:.0f} | p50 {of[name]['p50_ms']} |"
                f" | {of[name]['images_per_s']:.0f} | {of[name]['images_per_cpu_s']:.1f} | | |"
                for name in (LIMIT, LIMIT_AUTO)
            ),
        ]
        for name, one in of.items():
            if name in (LIMIT, LIMIT_AUTO):
                continue
            cells = [
                f"{one[c]['images_per_s']:.0f}, {one[c]['p50_ms']:.1f}, {one[c]['p99_ms']:.1f}"
                for c in map(str, CALLERS)
            ]
            lines.append(
                f"| {name} | {' | '.join(cells)} | {one['32']['images_per_cpu_s']:.1f}"
                f" | {one['memory_mb']} | {one['startup_s']} |"
            )
        lines += ["", "images per CPU-second of"]
        for name, one in of.items():
            ways = one.get("several", {}).items()
            told = ", ".join(f"{way} {row['images_per_cpu_s']:.1f}" for way, row in ways)
            lines += [f"{name}: {told}"] * bool(told)
        lines.append("")
    return "\n".join(lines)
