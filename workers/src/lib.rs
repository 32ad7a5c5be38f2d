//! gleaner-workers
