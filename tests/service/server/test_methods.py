"""The methods of a server are registered by their names."""

from grpc.aio import _server


async def test_each_method_has_a_queue_of_its_own(publish, serve, monkeypatch):
    """Else a burst of calls holds up health checks: they would wait in one queue."""
    registered = []

    def register(server, service, handlers):
        registered.extend(f"/{service}/{name}" for name in handlers)
        return add(server, service, handlers)

    add = _server.Server.add_registered_method_handlers
    monkeypatch.setattr(_server.Server, "add_registered_method_handlers", register)
    publish("food")
    await serve(reflection="on")

    assert {
        "/grpc.health.v1.Health/Check",
        "/hansang.v1.Classifier/Classify",
        "/inference.GRPCInferenceService/ModelInfer",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    } <= set(registered)
