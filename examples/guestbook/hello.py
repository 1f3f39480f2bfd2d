"""One line from a version of a service, and a good end.

After SIGTERM it serves for another second, until everybody has heard that it goes, and finishes what is under way.
"""

import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LINE = f"hello from version {os.environ.get('VERSION', '1')}\n".encode()
AT_ONCE = 100

leaving, under_way = threading.Event(), threading.Semaphore(AT_ONCE)


class Hello(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        with under_way:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(LINE)))
            if leaving.is_set():
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(LINE)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def end():
    leaving.set()
    time.sleep(1)
    server.shutdown()
    for _ in range(AT_ONCE):
        under_way.acquire()
    os._exit(0)


server = Server(("", 8080), Hello)
# Blocked in all threads, and waited for here: the thread that serves cannot wait for its own end.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
threading.Thread(target=server.serve_forever).start()
signal.sigwait({signal.SIGTERM})
end()
