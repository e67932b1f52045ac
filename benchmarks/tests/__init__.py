"""Tests of the benchmark programs, apart from the tests of the library."""
