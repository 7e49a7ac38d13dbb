"""grpcurl through the gateway, to a server whose services it learns by reflection: grpcurl_calls.py GRPCURL GATEWAY_PORT SERVER_PORT"""

import json
import subprocess
import sys
from concurrent import futures

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection

grpcurl, gateway, server_port = sys.argv[1:]

file = descriptor_pb2.FileDescriptorProto(name="words.proto", package="test", syntax="proto3")
words = file.message_type.add(name="Words")
words.field.add(name="text", number=1, type=9, label=1)
service = file.service.add(name="Say")
service.method.add(name="Again", input_type=".test.Words", output_type=".test.Words")
service.method.add(name="Each", input_type=".test.Words", output_type=".test.Words", client_streaming=True, server_streaming=True)
pool = descriptor_pool.DescriptorPool()
pool.Add(file)
Words = message_factory.GetMessageClass(pool.FindMessageTypeByName("test.Words"))


def again(request, context):
    if not request.text:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "say something")
    return Words(text=request.text * 2)


def each(requests, context):
    for request in requests:
        for word in request.text.split():
            yield Words(text=word)


coded = {"request_deserializer": Words.FromString, "response_serializer": Words.SerializeToString}
methods = {
    "Again": grpc.unary_unary_rpc_method_handler(again, **coded),
    "Each": grpc.stream_stream_rpc_method_handler(each, **coded),
}
server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), options=[("grpc.so_reuseport", 0)])
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Say", methods),))
reflection.enable_server_reflection(["test.Say", reflection.SERVICE_NAME], server, pool)
assert server.add_insecure_port("127.0.0.1:" + server_port)
server.start()


def run(*words, sent=None, ends=0):
    # options stand before the address, what is asked for behind it
    options = ["-d", "@"] if sent is not None else []
    command = [grpcurl, "-plaintext", "-max-time", "10", *options, "127.0.0.1:" + gateway, *words]
    done = subprocess.run(command, input=sent or "", capture_output=True, text=True, timeout=30)
    assert done.returncode == ends, (command, done)
    return done.stdout if ends == 0 else done.stderr


try:
    assert run("list").split() == ["grpc.reflection.v1alpha.ServerReflection", "test.Say"]
    told = run("describe", "test.Say")
    assert "rpc Each ( stream .test.Words ) returns ( stream .test.Words );" in told, told
    assert json.loads(run("test.Say/Again", sent='{"text": "ab"}')) == {"text": "abab"}
    said = run("test.Say/Each", sent='{"text": "a b"} {"text": "c"}')
    assert said.split() == '{ "text": "a" } { "text": "b" } { "text": "c" }'.split(), said
    refused = run("test.Say/Again", sent="{}", ends=64 + 3)
    assert "InvalidArgument" in refused and "say something" in refused, refused
finally:
    server.stop(None)
