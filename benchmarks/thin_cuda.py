"""Leaves in onnxruntime's CUDA library the kernels of one GPU architecture, without those of LLMs.

The library holds each kernel for a dozen architectures, in containers ('fatbins') of one section.
A container is rewritten in place: its size field says less, the bytes that are left over become
zeros, and no address moves. So the file stays as long, and compresses to a tenth.

A kernel that was taken out cannot be launched: CUDA says 'invalid device function'. ResNet18 needs
none of them. The layout of a fatbin is not documented by NVIDIA; what is read here was found in
onnxruntime-gpu 1.30.0 and 1.31.1, and another layout is refused.
"""

import re
import struct

import zstandard

_CONTAINER = 0xBA55ED50
_LLM = (b"moe", b"flash", b"fpa_intb", b"fmha", b"cutlass")
"""In the names of kernels that only language models launch."""


def thin(library: bytes, arch: int) -> bytes:
    """Return the library with the kernels of an architecture alone, such as 90 for an H100.

    Raises:
        ValueError: The library has no kernels for it, or is laid out in another way.
    """
    content = bytearray(library)
    start, size = _section(content, ".nv_fatbin")
    at, kept = start, 0
    while at < start + size - 16:
        magic, _, header, length = struct.unpack_from("<IHHQ", content, at)
        if magic != _CONTAINER:
            at += 8  # between two containers there are zeros, up to the next multiple of eight
            continue
        first, end = at + header, at + header + length
        chosen, found = _chosen(_entries(content, first, end), arch)
        kept += found
        struct.pack_into("<Q", content, at + 8, len(chosen))
        content[first:end] = chosen + bytes(length - len(chosen))
        at = -(-end // 8) * 8
    if not kept:
        raise ValueError(f"the library holds no kernels for sm_{arch}")
    return bytes(content)


def _section(library: bytearray, name: str) -> tuple[int, int]:
    """Return where a section of an ELF file begins, and its length."""
    if library[:5] != b"\x7fELF\x02":
        raise ValueError("no 64-bit ELF file")
    (table,) = struct.unpack_from("<Q", library, 0x28)
    entry, count, names = struct.unpack_from("<HHH", library, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", library, table + n * entry) for n in range(count)]
    for section in sections:
        at = sections[names][4] + section[0]
        if library[at : library.index(b"\0", at)].decode() == name:
            return section[4], section[5]
    raise ValueError(f"the library has no section {name}")


def _entries(library: bytearray, at: int, end: int) -> list[bytes]:
    """Return the code for each architecture in a container, with its header."""
    entries = []
    while at < end:
        header, length = struct.unpack_from("<IQ", library, at + 4)
        if not header or at + header + length > end:
            raise ValueError("a container of kernels is laid out in a way that is not known here")
        entries.append(bytes(library[at : at + header + length]))
        at += header + length
    return entries


def _chosen(entries: list[bytes], arch: int) -> tuple[bytes, bool]:
    """Return what stays of a container, and whether that can be launched."""
    mine = [entry for entry in entries if struct.unpack_from("<I", entry, 28)[0] == arch]
    if not mine:
        # The loader wants one entry; of another architecture it is never launched.
        return min(entries, key=len), False
    if not all(map(_is_of_llm, mine)):
        return b"".join(mine), True
    # Only their headers: the loader reads those.
    headers = [struct.unpack_from("<I", entry, 4)[0] for entry in mine]
    bare = (entry[:header] + bytes(len(entry) - header)
            for entry, header in zip(mine, headers, strict=True))  # fmt: skip
    return b"".join(bare), False


def _is_of_llm(entry: bytes) -> bool:
    header, _, _, compressed = struct.unpack_from("<IIII", entry, 4)
    (size,) = struct.unpack_from("<Q", entry, 56)
    try:
        code = zstandard.ZstdDecompressor().decompress(
            entry[header : header + compressed], max_output_size=size
        )
    except zstandard.ZstdError as error:
        raise ValueError("a kernel is not compressed with zstd, as it was in 1.31.1") from error
    kernels = set(re.findall(rb"\.text\.(_Z[\w$]+|[A-Za-z_]\w+)", code))
    return any(word in b" ".join(kernels).lower() for word in _LLM)
