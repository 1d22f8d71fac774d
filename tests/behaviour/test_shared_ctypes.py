"""Values and arrays of types that a script defines, and what else `ctypes` has."""

from __future__ import annotations

import ctypes
import sys

import numpy as np
import pytest

import flowpar
from flowpar import delayed

PROCESSES = {"scheduler": "processes", "workers": 2}


def test_types_that_no_other_process_finds_by_name_travel(run_script):
    done = run_script(
        """
        import ctypes, flowpar

        class Point(ctypes.Structure):
            _fields_ = [("x", ctypes.c_double), ("name", ctypes.c_char * 8), ("m", ctypes.c_int * 3)]

            def doubled(self):
                return 2 * self.x

        class Solid(Point):
            _fields_ = [("z", ctypes.c_double)]

        class Either(ctypes.Union):
            _fields_ = [("i", ctypes.c_int), ("f", ctypes.c_float)]

        class Pair(ctypes.Structure):
            _anonymous_ = ("either",)
            _fields_ = [("point", Point), ("either", Either)]

        class Packed(ctypes.Structure):
            _pack_ = 1
            _fields_ = [("a", ctypes.c_uint8, 3), ("b", ctypes.c_uint8, 5), ("c", ctypes.c_int)]

        class Big(ctypes.BigEndianStructure):
            _fields_ = [("a", ctypes.c_uint16)]

        def change(point, solid, points, either, pair, packed, big):
            point.x, solid.x, solid.z, points[1].x = 1.5, 2.5, 3.5, 4.5
            point.m[1] = 5
            either.i, big.a, packed.b = 6, 0x0102, 7
            with pair.get_lock():
                pair.get_obj().point.x = 8.5
                pair.get_obj().i = 9
            return point.get_obj().doubled(), type(point.get_obj()) is type(points[0])

        made = [flowpar.Value(Point, 0.5, b"name"), flowpar.Value(Solid), flowpar.Array(Point, 2)]
        made += [flowpar.Value(each) for each in (Either, Pair, Packed, Big)]
        with flowpar.Pool(1) as pool:
            print(*[pool.apply(change, made) for _ in range(2)])
        point, solid, points, either, pair, packed, big = made
        print(point.x, point.name, point.m[1], solid.x, solid.z, points[1].x, either.i)
        print(pair.point.x, pair.get_obj().i, packed.b, bytes(big.get_obj()))
        """
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "(3.0, True) (3.0, True)",
        "1.5 b'name' 5 2.5 3.5 4.5 6",
        r"8.5 9 7 b'\x01\x02'",
    ]


def test_arrays_of_arrays_travel():
    table, row = flowpar.Array(ctypes.c_int * 3, 4), flowpar.Value(ctypes.c_int * 3)

    @delayed
    def change(table, row):
        table[1][2] = row[1] = 7
        return type(table.get_obj()) is (ctypes.c_int * 3) * 4

    assert change(table, row).compute(**PROCESSES)
    assert (table[1][:], row[:]) == ([0, 0, 7], [0, 7, 0])
    row[0] = 1
    assert list(row) == [1, 7, 0]
    with pytest.raises(TypeError):
        flowpar.Value("i")[0]


def test_what_has_no_lock_has_no_method_that_gives_it():
    for made in (flowpar.Value("i", lock=False), flowpar.Array("i", 1, lock=False)):
        assert not hasattr(made, "get_lock")
        with pytest.raises(AttributeError, match="lock=False"):
            made.acquire()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="classes cannot have buffers before")
def test_an_array_without_a_lock_is_its_memory():
    numbers = flowpar.Array("d", 4, lock=False)
    np.frombuffer(numbers)[1] = 3
    assert numbers[:] == [0, 3, 0, 0]
    with pytest.raises(TypeError, match="get_obj"):
        memoryview(flowpar.Array("d", 4))
