"""A gRPC client without a proxy, and the servers that it calls.

Prints `NAME PORT` for each server (first, second), then calls `xds:///shop`, one call after the other. For each
line on its standard input it prints `report` and, as JSON, what came since the line before: how many calls each
server answered, how many failed, and the words of the last failure.
"""
import json
import os
import sys
import threading
import time
from concurrent import futures

CALL = "/understudy.test.Name/Get"


def serve(grpc, name):
    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(lambda request, context: name.encode())

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2), handlers=(Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(name, port, flush=True)
    return server


class Caller(threading.Thread):
    def __init__(self, call):
        super().__init__(daemon=True)
        self.call, self.lock, self.counts, self.failure = call, threading.Lock(), {}, None

    def run(self):
        import grpc

        while True:
            try:
                answer, failure = self.call(b"", timeout=10, wait_for_ready=True).decode(), None
            except grpc.RpcError as error:
                answer, failure = "failed", f"{error.code()}: {error.details()}"
            with self.lock:
                self.counts[answer] = self.counts.get(answer, 0) + 1
                self.failure = failure or self.failure
            time.sleep(0.002)

    def report(self):
        with self.lock:
            report = {"counts": self.counts, "failure": self.failure}
            self.counts = {}
            return report


def main():
    # The address of the control plane; gRPC reads its bootstrap when it is loaded.
    os.environ["GRPC_XDS_BOOTSTRAP_CONFIG"] = json.dumps({
        "xds_servers": [{
            "server_uri": sys.argv[1],
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"],
        }],
        "node": {"id": "proxyless-1", "cluster": "edge"},
    })
    import grpc

    servers = [serve(grpc, name) for name in ("first", "second")]
    channel = grpc.insecure_channel("xds:///shop")
    caller = Caller(channel.unary_unary(CALL))
    caller.start()
    for _ in sys.stdin:
        print("report", json.dumps(caller.report()), flush=True)
    del servers


main()
