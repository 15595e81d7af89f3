"""What the measurements say: ratios to the limit and to the best peer, and a table."""

from typing import Any

from benchmarks.serving.subject import OURS

CALLERS = (1, 8, 32)
LIMIT = "limit"


def ratios(sizes: dict[str, Any], names: list[str]) -> dict[str, float]:
    """Compare: the worst over the sizes, by images per CPU-second of 32 callers."""
    others = [name for name in names if name not in OURS]

    def speed(of: dict[str, Any], name: str) -> float:
        return float(of[name]["32"]["images_per_cpu_s"])

    found: dict[str, list[float]] = {}
    for of in sizes.values():
        mine = speed(of, "hansang fp32")
        found.setdefault("fp32_over_limit", []).append(mine / of[LIMIT]["images_per_cpu_s"])
        overhead = of["hansang fp32"]["1"]["p50_ms"] - of[LIMIT]["p50_ms"]
        found.setdefault("overhead_ms", []).append(-overhead)
        if others:
            best = max(speed(of, name) for name in others)
            found.setdefault("fp32_over_best_peer", []).append(mine / best)
            found.setdefault("int8_over_best_peer", []).append(speed(of, "hansang int8") / best)
            for callers in map(str, CALLERS):
                peer = min(of[name][callers]["p99_ms"] for name in others)
                p99 = of["hansang fp32"][callers]["p99_ms"]
                found.setdefault("p99_over_best_peer", []).append(-p99 / peer)
    # Of times the largest is the worst, of speeds the smallest.
    return {key: round(abs(min(values)) if min(values) < 0 and key != "overhead_ms"
                       else -min(values) if key == "overhead_ms" else min(values), 3)
            for key, values in found.items()}  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = []
    for size, of in found["sizes"].items():
        lines += [
            f"| {size} px | 1 caller: images/s, p50, p99 ms | 8 | 32 | images per CPU-s at 32"
            " | MB | start s |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            f"| {LIMIT} | p50 {of[LIMIT]['p50_ms']} | | {of[LIMIT]['images_per_s']:.0f}"
            f" | {of[LIMIT]['images_per_cpu_s']:.1f} | | |",
        ]
        for name, one in of.items():
            if name == LIMIT:
                continue
            cells = [
                f"{one[c]['images_per_s']:.0f}, {one[c]['p50_ms']:.1f}, {one[c]['p99_ms']:.1f}"
                for c in map(str, CALLERS)
            ]
            lines.append(
                f"| {name} | {' | '.join(cells)} | {one['32']['images_per_cpu_s']:.1f}"
                f" | {one['memory_mb']} | {one['startup_s']} |"
            )
        lines.append("")
    return "\n".join(lines)
