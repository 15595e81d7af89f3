"""Refuse a change of the protos that breaks clients of the last release.

    python proto/breaking.py proto/released.binpb build/proto/now.binpb    # part of `make check`

A message, field, value, service or method may be added. What a release has stays, by number,
name, type and kind: old clients read answers by number, and JSON ones by name. A field that goes
leaves its number and its name `reserved`. Both files are FileDescriptorSets, as protoc and buf
write and read them; `make proto-release` makes what is there now the last release.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)


def breaks(old: FileDescriptorSet, new: FileDescriptorSet) -> list[str]:
    """Return a sentence for each change that a client of `old` would notice."""
    now = {file.package: file for file in new.file}
    found: list[str] = []
    for file in old.file:
        if file.package not in now:
            found.append(f"package {file.package} is gone")
        else:
            found += _file(file, now[file.package])
    return found


def _file(old: FileDescriptorProto, new: FileDescriptorProto) -> Iterator[str]:
    yield from _messages(old.package, old.message_type, new.message_type)
    yield from _enums(old.package, old.enum_type, new.enum_type)
    yield from _services(old.package, old.service, new.service)


def _messages(
    scope: str, old: "list[DescriptorProto]", new: "list[DescriptorProto]"
) -> Iterator[str]:
    now = {message.name: message for message in new}
    for message in old:
        name = f"{scope}.{message.name}"
        if message.name not in now:
            yield f"message {name} is gone"
            continue
        after = now[message.name]
        yield from _fields(name, message, after)
        yield from _messages(name, message.nested_type, after.nested_type)
        yield from _enums(name, message.enum_type, after.enum_type)


def _fields(name: str, old: DescriptorProto, new: DescriptorProto) -> Iterator[str]:
    now = {field.number: field for field in new.field}
    for field in old.field:
        what = f"field {name}.{field.name} = {field.number}"
        if field.number not in now:
            kept = any(each.start <= field.number < each.end for each in new.reserved_range)
            if not (kept and field.name in new.reserved_name):
                yield f"{what} is gone; reserve its number and its name"
        elif _kind(field, old) != _kind(now[field.number], new):
            before, after = _kind(field, old), _kind(now[field.number], new)
            yield f"{what} was {before}, and is {after}"


def _kind(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    """Return all that a client sees of a field but its number, as words."""
    label = FieldDescriptorProto.Label.Name(field.label).removeprefix("LABEL_").lower()
    type_ = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    group = ""
    if field.HasField("oneof_index"):
        group = f" in oneof {message.oneof_decl[field.oneof_index].name}"
    return f"{label} {field.type_name or type_} {field.name} ({field.json_name}){group}"


def _enums(
    scope: str, old: "list[EnumDescriptorProto]", new: "list[EnumDescriptorProto]"
) -> Iterator[str]:
    now = {enum.name: {value.number: value.name for value in enum.value} for enum in new}
    for enum in old:
        if enum.name not in now:
            yield f"enum {scope}.{enum.name} is gone"
            continue
        for value in enum.value:
            name = now[enum.name].get(value.number)
            if name != value.name:
                yield (
                    f"value {scope}.{enum.name}.{value.name} = {value.number} is {name or 'gone'}"
                )


def _services(
    scope: str, old: "list[ServiceDescriptorProto]", new: "list[ServiceDescriptorProto]"
) -> Iterator[str]:
    now = {service.name: {each.name: each for each in service.method} for service in new}
    for service in old:
        for method in service.method:
            after = now.get(service.name, {}).get(method.name)
            # Options are no part of the wire.
            before = type(method).FromString(method.SerializeToString())
            before.ClearField("options")
            if after is not None:
                after = type(after).FromString(after.SerializeToString())
                after.ClearField("options")
            if after != before:
                state = "gone" if after is None else "another: its messages or streams differ"
                yield f"method {scope}.{service.name}/{method.name} is {state}"


def main(released: str, present: str) -> None:
    """Compare two files; say what breaks, and exit with 1 if anything does."""
    old, new = (Path(each).read_bytes() for each in (released, present))
    found = breaks(FileDescriptorSet.FromString(old), FileDescriptorSet.FromString(new))
    for sentence in found:
        print(f"since {released}: {sentence}", file=sys.stderr)
    sys.exit(bool(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
