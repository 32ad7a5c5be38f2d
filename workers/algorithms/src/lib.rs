//! gleaner-algorithms
