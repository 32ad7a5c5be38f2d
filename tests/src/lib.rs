//! Whole runs through the program `gleaner`, the simulation of the commit protocol, and golden
//! values of the reference implementations. The harness is here, the tests are in `tests/`.
