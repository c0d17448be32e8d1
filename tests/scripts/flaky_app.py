#!/usr/bin/env python3
"""An HTTP/1.1 application whose health is a matter of taste: `PUT /mode/ok|error|hang|slow` says how it behaves from
then on, `GET /seen` how many other requests it has had, and which `x-request-timeout-ms` the last of them carried.

Prints `listening HOST:PORT`. Standard library only."""

import argparse
import asyncio
import json
import sys

SLOW_SECONDS = 0.5


class App:
    def __init__(self):
        self.mode = "ok"
        self.seen = 0
        self.timeout = None

    async def connection(self, reader, writer):
        try:
            while await self.request(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    async def request(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request, *lines = head.split("\r\n")
        method, target, _ = request.split(" ")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        await reader.readexactly(int(fields.get("content-length", 0)))
        if method == "PUT" and target.startswith("/mode/"):
            self.mode = target.removeprefix("/mode/")
            return await self.answer(writer, 200, self.mode)
        if target == "/seen":
            return await self.answer(writer, 200, json.dumps({"seen": self.seen, "timeout": self.timeout}))
        self.seen += 1
        self.timeout = fields.get("x-request-timeout-ms")
        if self.mode == "hang":
            # Until the client, which is the sidecar, gives up, or the application is told otherwise.
            while self.mode == "hang" and not reader.at_eof():
                await asyncio.sleep(0.05)
        if self.mode == "slow":
            await asyncio.sleep(SLOW_SECONDS)
        return await self.answer(writer, 503 if self.mode == "error" else 200, "said\n")

    @staticmethod
    async def answer(writer, status, text):
        writer.write(f"HTTP/1.1 {status} Said\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode())
        await writer.drain()
        return True


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    app = App()
    server = await asyncio.start_server(app.connection, "127.0.0.1", parser.parse_args().port, backlog=1024)
    host, port = server.sockets[0].getsockname()
    print(f"listening {host}:{port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(0)
