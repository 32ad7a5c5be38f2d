//! How often this process was held back: by stores, by endpoints, by the rates of a job.

use gleaner_schemas::Throttled;

use crate::endpoint::shared_pace;

/// How often since the process started; `None` if never.
#[must_use]
pub fn so_far() -> Option<Throttled> {
    let throttled = Throttled {
        by_stores: gleaner_storage::stores::n_throttled(),
        by_endpoints: gleaner_endpoint::n_throttled(),
        by_rates: shared_pace::n_waits(),
    };
    (throttled != Throttled::default()).then_some(throttled)
}
