"""A bucket of Google Cloud Storage in this process: what gcsfs needs of its JSON API.

cloud.google.com/storage/docs/json_api. STORAGE_EMULATOR_HOST, which gcsfs reads, is its address.
"""

import base64
import itertools
import json
import re
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

OBJECT = re.compile(r"(?:/download)?/storage/v1/b/([^/]+)/o/([^/]+)")
REWRITE = re.compile(r"/storage/v1/b/([^/]+)/o/([^/]+)/rewriteTo/b/([^/]+)/o/([^/]+)")
LIST = re.compile(r"/storage/v1/b/([^/]+)/o")
UPLOAD = re.compile(r"/upload/storage/v1/b/([^/]+)/o")


class FakeBucket:
    """All objects by "BUCKET/NAME", and the names in the order in which they were written."""

    def __init__(self):
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.written: list[str] = []
        self.fails_after: int | None = None  # writes that still succeed
        self._numbers = itertools.count(1)
        self.uploads: dict[str, tuple[str, bytearray]] = {}
        owner = self

        class Handler(_Handler):
            bucket = owner

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def put_object(self, name: str, content: bytes | str) -> None:
        """Writes an object."""
        content = content.encode() if isinstance(content, str) else content
        self.objects[name] = content, next(self._numbers)
        self.written.append(name)

    def names(self, folder: str) -> list[str]:
        """The names below a folder, without those of ``.adapt_jax``."""
        return sorted(
            name.removeprefix(f"{folder}/")
            for name in self.objects
            if name.startswith(f"{folder}/") and "/.adapt_jax/" not in name
        )

    def read(self, name: str) -> bytes:
        """The content of an object."""
        return self.objects[name][0]

    def close(self) -> None:
        """Ends the server."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_):  # gcsfs drops connections that it no longer needs
        pass


class _Handler(BaseHTTPRequestHandler):
    bucket: FakeBucket
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # an answer is one packet
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def _answer(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _missing(self):
        self._answer({"error": {"code": 404, "message": "Not Found"}}, 404)

    def _describe(self, full):
        content, generation = self.bucket.objects[full]
        bucket, _, name = full.partition("/")
        crc = base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()
        size, generation = str(len(content)), str(generation)
        return {"bucket": bucket, "name": name, "size": size, "generation": generation, "etag": crc}

    def _put(self, full, content):
        limit = self.bucket.fails_after
        if limit is not None:
            if limit == 0:
                self._answer({"error": {"code": 403, "message": "no permission"}}, 403)
                return
            self.bucket.fails_after = limit - 1
        self.bucket.put_object(full, content)
        self._answer(self._describe(full))

    def do_GET(self):
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if found := OBJECT.fullmatch(url.path):
            full = "/".join(map(unquote, found.groups()))
            if full not in self.bucket.objects:
                self._missing()
            elif query.get("alt") == ["media"]:
                self._send_content(self.bucket.read(full))
            else:
                self._answer(self._describe(full))
        elif found := LIST.fullmatch(url.path):
            start = f"{found[1]}/{query.get('prefix', [''])[0]}"
            names = sorted(name for name in self.bucket.objects if name.startswith(start))
            self._answer({"items": [self._describe(name) for name in names]})
        else:
            self._missing()

    def _send_content(self, content):
        status = 200
        if asked := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(asked[1]), int(asked[2] or len(content) - 1)
            content, status = content[first : last + 1], 206
        self._answer(content, status, **{"Content-Type": "application/octet-stream"})

    def do_POST(self):
        url = urlsplit(self.path)
        query, body = parse_qs(url.query), self._body()
        if found := REWRITE.fullmatch(url.path):
            one, two = map(unquote, found.groups()[:2]), map(unquote, found.groups()[2:])
            source = "/".join(one)
            if source not in self.bucket.objects:
                return self._missing()
            self.bucket.put_object("/".join(two), self.bucket.read(source))
            return self._answer({"done": True})
        found = UPLOAD.fullmatch(url.path)
        if found is None:
            return self._missing()
        if query.get("uploadType") == ["multipart"]:
            mark = b"--==0=="
            _, described, sent, *_ = body.split(mark)
            name = json.loads(described.split(b"\n\n", 1)[1])["name"]
            content = body.split(mark, 2)[2].split(b"\n\n", 1)[1]
            return self._put(f"{found[1]}/{name}", content[: -len(b"\n--==0==--")])
        if "session" in query:
            return self._go_on(query["session"][0], body)
        session = f"s{next(self.bucket._numbers)}"
        self.bucket.uploads[session] = f"{found[1]}/{query['name'][0]}", bytearray()
        self._answer({}, Location=f"{self.bucket.address}{url.path}?session={session}")

    def _go_on(self, session, body):
        full, content = self.bucket.uploads[session]
        content += body
        if self.headers["Content-Range"].endswith(f"/{len(content)}"):  # "*" while more comes
            return self._put(full, bytes(content))
        self._answer(b"", 308, Range=f"bytes=0-{len(content) - 1}")

    def do_DELETE(self):
        found = OBJECT.fullmatch(urlsplit(self.path).path)
        full = "/".join(map(unquote, found.groups())) if found else ""
        if self.bucket.objects.pop(full, None) is None:
            return self._missing()
        self._answer(b"", 204)
