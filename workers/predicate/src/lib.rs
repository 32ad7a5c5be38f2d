//! gleaner-predicate
