"""Frames arrive whole and in order, however the bytes come; what is no frame is refused."""

import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowpar.pools import channel
from flowpar.pools.channel import Frame, FrameError, FrameReader, FrameWriter


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def test_a_frame_arrives(pair):
    writer, reader = FrameWriter(pair[0]), FrameReader(pair[1])
    writer.put(channel.BATCH, 2**40, b"payload")
    writer.put(channel.FORGET, 0)
    assert not writer.is_empty
    assert writer.flush() > len(b"payload")
    assert writer.is_empty
    assert reader.receive() == Frame(channel.BATCH, 2**40, b"payload")
    assert reader.receive() == Frame(channel.FORGET, 0, b"")


class Trickle:
    """Stands in for a socket that gives a few bytes at a time."""

    def __init__(self, data, pieces):
        self.data = memoryview(data)
        self.pieces = pieces
        self.turn = 0

    def recv_into(self, view):
        size = self.pieces[self.turn % len(self.pieces)]
        self.turn += 1
        piece, self.data = self.data[:size], self.data[min(size, len(view)) :]
        piece = piece[: len(view)]
        view[: len(piece)] = piece
        return len(piece)


class Sink:
    """Stands in for a socket that takes a few bytes at a time."""

    def __init__(self, piece):
        self.piece = piece
        self.data = bytearray()

    def sendmsg(self, parts):
        taken = b"".join(parts)[: self.piece]
        self.data += taken
        return len(taken)


payloads = st.one_of(
    st.binary(max_size=50),
    st.integers(0, 3 * channel._BUFFER_BYTES).map(lambda size: bytes(i % 251 for i in range(size))),
)


@given(
    st.lists(st.tuples(st.sampled_from([channel.FUNCTION, channel.REPORT]), payloads), max_size=6),
    st.lists(st.integers(1, 2 * channel._BUFFER_BYTES), min_size=1, max_size=4),
    st.integers(1000, 10**6),
)
def test_any_cut_gives_the_same_frames(messages, pieces, piece):
    sink = Sink(piece)
    writer = FrameWriter(sink)
    for number, (kind, payload) in enumerate(messages):
        writer.put(kind, number, payload)
    writer.flush()
    reader = FrameReader(Trickle(sink.data, [max(piece, 500) for piece in pieces]))
    for number, (kind, payload) in enumerate(messages):
        assert reader.receive() == Frame(kind, number, payload)
    with pytest.raises(EOFError):
        reader.receive()


def test_rubbish_is_refused(pair):
    pair[0].sendall(b"print('hello')" * 10)
    with pytest.raises(FrameError):
        FrameReader(pair[1]).receive()


@pytest.mark.parametrize("change", [(0, b"x"), (4, b"\x63"), (13, b"\xff")])
def test_a_header_with_one_wrong_byte_is_refused(pair, change):
    sink = Sink(10**6)
    writer = FrameWriter(sink)
    writer.put(channel.REPORT, 1, b"payload")
    writer.flush()
    offset, byte = change
    sink.data[offset : offset + 1] = byte
    pair[0].sendall(sink.data)
    with pytest.raises(FrameError):
        FrameReader(pair[1]).receive()


def test_a_socket_that_does_not_block_takes_what_it_can(pair):
    pair[0].setblocking(False)
    writer, reader = FrameWriter(pair[0]), FrameReader(pair[1])
    payload = bytes(10 << 20)
    writer.put(channel.REPORT, 1, payload)
    assert 0 < writer.flush() < len(payload)
    assert not writer.is_empty
    assert writer.flush() == 0
    frames = []
    thread = threading.Thread(target=lambda: frames.append(reader.receive()), daemon=True)
    thread.start()
    while not writer.is_empty:
        writer.flush()
    thread.join(10)
    assert len(frames[0].payload) == len(payload)


def test_the_end_of_the_other_side(pair):
    pair[0].close()
    with pytest.raises(EOFError):
        FrameReader(pair[1]).receive()
