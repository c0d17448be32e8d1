#!/usr/bin/env python3
"""A real gRPC client and server (grpcio): all four kinds of call, errors, metadata and deadlines, through the
outbound listener, the inbound one, and one after the other. Messages are plain bytes, so no protoc is needed."""

from concurrent import futures

from sidecar import Sidecar, base_config, chained, check, need_packages

need_packages(("grpcio", "grpc"))

import grpc  # noqa: E402  (only there once need_packages has switched to the venv)

SERVICE = "test.Echo"
BIG = b"x" * 2_000_000
CALL_TIMEOUT_SECONDS = 20


def unary(request, context):
    context.set_trailing_metadata((("x-seen", dict(context.invocation_metadata()).get("x-sent", "none")),))
    return request


def fail(_request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today")


def never(_request, context):
    # Ends when the call does: the client's deadline is what this tests.
    done = futures.Future()
    context.add_callback(lambda: done.set_result(None))
    done.result(timeout=CALL_TIMEOUT_SECONDS)
    return b""


def server_stream(request, _context):
    for number in range(int(request)):
        yield str(number).encode()


def client_stream(requests, _context):
    return str(sum(len(request) for request in requests)).encode()


def both_streams(requests, _context):
    for request in requests:
        yield request.upper()


def serve():
    """Starts a server on a free port; returns it and its address."""
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "FailStream": grpc.unary_stream_rpc_method_handler(fail),
        "Never": grpc.unary_unary_rpc_method_handler(never),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "BothStreams": grpc.stream_stream_rpc_method_handler(both_streams),
    }
    server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, f"127.0.0.1:{port}"


def check_calls(address):
    # One channel for each round of calls: gRPC would otherwise share a connection between equal targets.
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        check_unary(channel)
        check_streams(channel)
        check_errors(channel)


def check_unary(channel):
    call = channel.unary_unary(f"/{SERVICE}/Unary")
    answer, info = call.with_call(b"hello", metadata=(("x-sent", "7"),), timeout=CALL_TIMEOUT_SECONDS)
    check(answer == b"hello", "unary: the message comes back")
    check(("x-seen", "7") in info.trailing_metadata(), "unary: metadata goes there and trailers come back")
    check(call(BIG, timeout=CALL_TIMEOUT_SECONDS) == BIG, "unary: a message of 2 MB comes back")
    pending = [call.future(str(number).encode(), timeout=CALL_TIMEOUT_SECONDS) for number in range(200)]
    check([answer.result() for answer in pending] == [str(number).encode() for number in range(200)],
          "unary: 200 calls at once")


def check_streams(channel):
    answers = channel.unary_stream(f"/{SERVICE}/ServerStream")(b"1000", timeout=CALL_TIMEOUT_SECONDS)
    check([int(answer) for answer in answers] == list(range(1000)), "server stream: 1000 messages in order")
    total = channel.stream_unary(f"/{SERVICE}/ClientStream")
    check(total(iter([b"abc"] * 1000), timeout=CALL_TIMEOUT_SECONDS) == b"3000", "client stream: 1000 messages")
    check_ping_pong(channel)


def check_ping_pong(channel):
    """Each request waits for the answer to the last: a proxy that buffers either direction would hang."""
    answered = futures.Future

    def requests():
        for turn in turns:
            yield b"ping"
            turn.result(timeout=CALL_TIMEOUT_SECONDS)

    turns = [answered() for _ in range(50)]
    answers = channel.stream_stream(f"/{SERVICE}/BothStreams")(requests(), timeout=CALL_TIMEOUT_SECONDS)
    count = 0
    for answer, turn in zip(answers, turns):
        count += answer == b"PING"
        turn.set_result(None)
    check(count == 50 and next(answers, None) is None, "both streams: 50 answers, each before the next request")


def check_errors(channel):
    expect_code(lambda: channel.unary_unary(f"/{SERVICE}/Fail")(b"", timeout=CALL_TIMEOUT_SECONDS),
                grpc.StatusCode.FAILED_PRECONDITION, "not today")
    expect_code(lambda: list(channel.unary_stream(f"/{SERVICE}/FailStream")(b"", timeout=CALL_TIMEOUT_SECONDS)),
                grpc.StatusCode.FAILED_PRECONDITION, "not today")
    expect_code(lambda: channel.unary_unary(f"/{SERVICE}/Missing")(b"", timeout=CALL_TIMEOUT_SECONDS),
                grpc.StatusCode.UNIMPLEMENTED, "")
    expect_code(lambda: channel.unary_unary(f"/{SERVICE}/Never")(b"", timeout=0.5),
                grpc.StatusCode.DEADLINE_EXCEEDED, "")


def expect_code(call, code, details):
    try:
        call()
    except grpc.RpcError as error:
        check(error.code() == code and details in error.details(), f"an error arrives as {error.code()}")
        return
    check(False, f"a call fails with {code}")


def main():
    server, address = serve()
    try:
        for protocol in ("auto", "http2"):
            with Sidecar(base_config(address, protocol)) as sidecar:
                for listener, place in sidecar.listeners():
                    print(f"-- {listener}, upstream protocol {protocol}")
                    check_calls(place)
            with Sidecar(chained(base_config(address, protocol))) as sidecar:
                print(f"-- outbound then inbound, upstream protocol {protocol}")
                check_calls(sidecar.outbound)
        check_unavailable()
    finally:
        server.stop(None)


def check_unavailable():
    """A failure of the proxy itself must look like gRPC to a gRPC caller."""
    nobody = "127.0.0.1:1"
    with Sidecar(base_config(nobody, "http2")) as sidecar, grpc.insecure_channel(sidecar.outbound) as channel:
        expect_code(lambda: channel.unary_unary(f"/{SERVICE}/Unary")(b"", timeout=CALL_TIMEOUT_SECONDS),
                    grpc.StatusCode.UNAVAILABLE, "")


if __name__ == "__main__":
    main()
