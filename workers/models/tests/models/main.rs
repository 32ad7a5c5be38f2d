//! Whole directories: losses against references, what must not change them, and what is refused.

#[cfg(test)]
mod architectures;
#[cfg(test)]
mod bad_files;
#[cfg(test)]
mod common;
#[cfg(test)]
mod encoder;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod invariants;
#[cfg(test)]
mod trained;
