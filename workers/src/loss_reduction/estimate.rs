//! What the stage will ask of servers: each document once of each, and first what they can.

use super::model_param::ServedModel;
use super::score_served::text_bytes_max;
use super::server::PROBE;
use super::{LossReduction, SCORE};
use crate::expected_requests::{PhaseRequests, RequestSample, Requests, StageRequests};
use crate::generation::estimate::BYTES_PER_TOKEN;

/// What a server is asked first, if it understands the first of the ways that are tried.
pub(crate) fn probes(eos: Option<&str>) -> Requests {
    let probe = |text: &str| Requests {
        calls: 1.0,
        prompt_tokens: text.len() as f64 / BYTES_PER_TOKEN,
        completion_tokens: 1.0,
    };
    let with_eos = eos.map(|eos| probe(&[eos, PROBE].concat()));
    probe(PROBE) + with_eos.unwrap_or_default()
}

impl LossReduction {
    pub(super) fn requests(&self, sample: &RequestSample<'_>) -> StageRequests {
        let bytes_max = text_bytes_max(self.params.context.unwrap_or(0), self.params.max_tokens);
        let asked = sample.items.iter().filter(|text| !text.is_empty());
        let mut per_item = Requests::default();
        for text in asked {
            per_item += Requests {
                calls: 1.0,
                prompt_tokens: text.len().min(bytes_max) as f64 / BYTES_PER_TOKEN,
                completion_tokens: 1.0,
            };
        }
        let servers = self.models.iter().filter_map(|(_, model)| model.server());
        let phase = |server: &ServedModel| PhaseRequests {
            phase: SCORE,
            purpose: "score",
            endpoint: server.endpoint.name.clone(),
            per_item: per_item * (1.0 / (sample.items.len() as f64).max(1.0)),
            once: probes(self.params.eos.as_deref()),
        };
        StageRequests {
            phases: servers.map(phase).collect(),
            rows_per_item: 1.0,
        }
    }
}
