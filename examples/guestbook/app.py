"""A guestbook: entries in PostgreSQL, a counter in Redis, both found by name.

It knows nothing of Stackpad. `postgres` and `redis` are the names of the other containers in its network, and in
another environment the same names are other containers.
"""

import html
import os
import signal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import psycopg2
import redis

PAGE = """<!doctype html><meta charset="utf-8"><title>Guestbook</title>
<h1>Guestbook of {environment}</h1><p>Visit number {visits}, as Redis counts.</p>
<form method="post"><input name="text" maxlength="200" required><button>Sign</button></form><ul>{entries}</ul>
"""


def database():
    connection = psycopg2.connect(host="postgres", user="postgres", dbname="postgres", connect_timeout=3)
    connection.autocommit = True
    return connection


class Guestbook(BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            visits = redis.Redis(host="redis", socket_timeout=3).incr("visits")
            with database().cursor() as cursor:
                cursor.execute("CREATE TABLE IF NOT EXISTS entries (id serial, text text)")
                cursor.execute("SELECT text FROM entries ORDER BY id DESC LIMIT 50")
                rows = cursor.fetchall()
        except (redis.RedisError, psycopg2.Error) as error:
            self.answer(503, f"not ready: {html.escape(str(error))}")
            return
        entries = "".join(f"<li>{html.escape(text)}</li>" for (text,) in rows)
        page = PAGE.format(environment=html.escape(os.environ.get("ENVIRONMENT", "?")), visits=visits, entries=entries)
        self.answer(200, page)

    def do_POST(self):
        body = self.rfile.read(min(int(self.headers.get("Content-Length") or 0), 10_000)).decode("utf-8", "replace")
        text = parse_qs(body).get("text", [""])[0][:200]
        with database().cursor() as cursor:
            cursor.execute("INSERT INTO entries (text) VALUES (%s)", (text,))
        self.send_response(303)
        self.send_header("Location", "/")
        self.end_headers()

    def answer(self, status, page):
        body = page.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


# The first process of a container is not ended by a signal it does not ask for.
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
ThreadingHTTPServer(("", 8080), Guestbook).serve_forever()
