"""Kinds of work that "auto" has to tell apart, and large arrays."""

from __future__ import annotations

import http.server
import multiprocessing
import time
import urllib.request

import numpy as np

from flowpar import delayed


def sleep(number):
    time.sleep(0.02)
    return number


def crunch(number):
    total = 0
    for k in range(100_000):
        total += k * k % 7
    return total + number


def short(number):
    total = 0
    for k in range(1_500):
        total += k * k % 7
    return total + number


def sort(number):
    return float(np.sort(np.random.default_rng(number).random(400_000))[0])


def cube(number):
    return number**3


def fill(number):
    return np.full(2_000_000, float(number))


def shift(array):
    return array + 1


def add_up(array):
    return float(array.sum())


def make(number):
    return np.full(8_000_000, float(number))


def item(table, at):
    """Return one number of many."""
    return float(table[at])


def scale(array):
    return array * 2.0


class Server:
    """A web server on loopback, in a process of its own, that answers after 10 ms."""

    def __init__(self):
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        self.url = f"http://127.0.0.1:{ours.recv()}/"

    def close(self):
        self._process.terminate()
        self._process.join()


def _serve(pipe):
    http.server.ThreadingHTTPServer.request_queue_size = 256
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answer)
    pipe.send(server.server_port)
    server.serve_forever()


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(0.01)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"x" * 10_000)

    def log_message(self, *_):
        pass


def fetch(url, number):
    with urllib.request.urlopen(f"{url}{number}") as answer:
        return len(answer.read())


def calls(function, count, *first):
    call = delayed(function)
    return [call(*first, number) for number in range(count)]


def graphs(url):
    """Return the graphs that "auto" is tried on, by what they do."""
    return {
        "100 sleeps of 20 ms": calls(sleep, 100),
        "100 downloads": calls(fetch, 100, url),
        "60 × 4 ms of Python": calls(crunch, 60),
        "10,000 × 50 µs of Python": calls(short, 10_000),
        "60 × 3 ms of numpy.sort": calls(sort, 60),
        "20,000 cubes": calls(cube, 20_000),
        "40 chains over 16 MB": [
            delayed(add_up)(delayed(shift)(array)) for array in calls(fill, 40)
        ],
        "all of these at once": [
            *calls(sleep, 40),
            *calls(fetch, 40, url),
            *calls(crunch, 40),
            *calls(sort, 40),
            *calls(cube, 2000),
        ],
    }


def chains(count):
    return [delayed(scale)(array) for array in calls(make, count)]
