"""What `kubectl exec` and `kubectl attach` talk: a WebSocket of the protocol v4.channel.k8s.io."""

import base64
import json
import os
import socket
import struct
import urllib.parse

from engine import stretched

STDIN, STDOUT, STDERR, STATUS, RESIZE = range(5)
BINARY, CLOSE = 2, 8


class Stream:
    """The other end of an answer to Exec or Attach."""

    def __init__(self, url):
        where = urllib.parse.urlsplit(url)
        self.socket = socket.create_connection((where.hostname, where.port), stretched(20))
        self.file = self.socket.makefile("rb")
        self.text = {STDOUT: "", STDERR: "", STATUS: ""}
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall((f"GET {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nConnection: Upgrade\r\n"
                             "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                             f"Sec-WebSocket-Key: {key}\r\n"
                             "Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n").encode())
        answer = self.file.readline().decode()
        assert " 101 " in answer, answer
        while self.file.readline().strip():
            pass

    def send(self, channel, data):
        """One frame; a client's is masked (RFC 6455), which a mask of zeros is too."""
        data = bytes([channel]) + data
        assert len(data) < 126
        self.socket.sendall(bytes([0x80 | BINARY, 0x80 | len(data)]) + bytes(4) + data)

    def write(self, text):
        self.send(STDIN, text.encode())

    def resize(self, rows, columns):
        self.send(RESIZE, json.dumps({"Width": columns, "Height": rows}).encode())

    def receive(self):
        """Takes the next frame in; False at the end."""
        head = self.file.read(2)
        if len(head) < 2:
            return False
        size = head[1] & 127
        if size > 125:
            kind = {126: ">H", 127: ">Q"}[size]
            size = struct.unpack(kind, self.file.read(struct.calcsize(kind)))[0]
        data = self.file.read(size)
        if head[0] & 15 == CLOSE:
            return False
        if head[0] & 15 == BINARY and data:
            self.text[data[0]] += data[1:].decode(errors="replace")
        return True

    def expect(self, text, channel=STDOUT):
        """Waits until the text is seen, and forgets everything up to it."""
        while text not in self.text[channel]:
            assert self.receive(), f"the end, without {text!r}: {self.text}"
        self.text[channel] = self.text[channel].split(text, 1)[1]

    def end(self):
        """The exit code, once the process has ended."""
        while not self.text[STATUS] and self.receive():
            pass
        self.socket.close()
        status = json.loads(self.text[STATUS])
        if status["status"] == "Success":
            return 0
        causes = {cause["reason"]: cause["message"] for cause in status["details"]["causes"]}
        return int(causes["ExitCode"])
