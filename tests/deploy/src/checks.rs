//! Checks of an overlay against what the programs do. Each gives a sentence for what is wrong.

mod arguments;
mod batch;
mod dashboard;
mod exit_codes;
mod hardening;
mod images;
mod network;
mod queues;
mod references;
mod resources;

use crate::overlay::Overlay;
use crate::sources::Facts;
use crate::typed;

/// What is wrong with an overlay, by any of the checks.
#[must_use]
pub fn findings(overlay: &Overlay, facts: &Facts) -> Vec<String> {
    let checks = [
        arguments::findings,
        batch::findings,
        dashboard::findings,
        exit_codes::findings,
        hardening::findings,
        images::findings,
        network::findings,
        queues::findings,
        references::findings,
        resources::findings,
    ];
    let mut found = typed::findings(overlay);
    found.extend(checks.iter().flat_map(|check| check(overlay, facts)));
    found
}
