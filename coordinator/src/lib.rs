//! gleaner-coordinator
