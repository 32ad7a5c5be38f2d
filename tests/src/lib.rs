//! gleaner-tests
