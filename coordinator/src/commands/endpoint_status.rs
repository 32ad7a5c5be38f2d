//! What was spent at the endpoints of an output, and which requests may be paid for without a reply.

use std::fmt::Write as _;

use gleaner_schemas::EndpointSettings;
use gleaner_storage::numbered::Numbered;
use gleaner_storage::{Output, OutputError, layout};
use gleaner_workers::endpoint::access::endpoint_hash;
use gleaner_workers::endpoint::lost_requests;
use gleaner_workers::endpoint::spending::{Amounts, Spending, money};
use serde::Serialize;

use crate::progress::count;

/// Requests without a reply that are listed.
const LISTED: usize = 20;

/// What was spent at an endpoint.
#[derive(Debug, Clone, Serialize)]
pub struct EndpointStatus {
    /// Its name in the job file.
    pub name: String,
    /// What is spent: money in billionths, tokens, requests.
    pub spent: Amounts,
    /// The part of it that workers may have spent that are gone.
    pub possibly: Amounts,
    /// What workers hold to spend.
    pub reserved: Amounts,
    /// Money that the job may spend, if it is limited.
    pub budget: Option<f64>,
}

/// A request that was sent and has no reply yet: it is under way, or may be paid for in vain.
#[derive(Debug, Clone, Serialize)]
pub struct OpenRequest {
    /// Its hash.
    pub request: String,
    /// What it is for.
    pub stage: String,
    /// Who sent it.
    pub worker: String,
    /// When: milliseconds since 1970.
    pub sent_ms: i64,
    /// What it may have cost: money in billionths, tokens.
    pub estimate: Amounts,
}

/// What there is to tell of endpoints.
#[derive(Debug, Clone, Default, Serialize)]
pub struct EndpointsStatus {
    /// By name.
    pub endpoints: Vec<EndpointStatus>,
    /// Requests without a reply, the oldest first.
    pub open_requests: Vec<OpenRequest>,
}

/// Looks at the endpoints of an output; `None` if it has none.
///
/// # Errors
///
/// Of the store.
pub async fn endpoints(output: &Output) -> Result<Option<EndpointsStatus>, OutputError> {
    let Some(endpoints) = spent(output).await? else {
        return Ok(None);
    };
    let open = lost_requests::without_reply(output).await?;
    let mut open: Vec<OpenRequest> = open
        .into_iter()
        .map(|sent| OpenRequest {
            request: sent.request,
            stage: sent.stage,
            worker: sent.worker,
            sent_ms: sent.sent_ms,
            estimate: sent.estimate,
        })
        .collect();
    open.sort_by(|a, b| (a.sent_ms, &a.request).cmp(&(b.sent_ms, &b.request)));
    Ok(Some(EndpointsStatus {
        endpoints,
        open_requests: open,
    }))
}

/// What was spent at the endpoints of an output; `None` if it has none. Two small objects per
/// endpoint are read, however many requests there are.
///
/// # Errors
///
/// Of the store.
pub async fn spent(output: &Output) -> Result<Option<Vec<EndpointStatus>>, OutputError> {
    let list = Numbered::new(output.clone(), layout::ENDPOINTS.to_owned());
    let Some((_, bytes)) = list.newest().await? else {
        return Ok(None);
    };
    // What another version wrote is not worth failing for.
    let Ok(settings) = serde_json::from_slice::<EndpointSettings>(&bytes) else {
        return Ok(None);
    };
    let mut endpoints = Vec::new();
    for (name, endpoint) in &settings.endpoints {
        let hash = endpoint_hash(&endpoint.url, &endpoint.model);
        let list = Numbered::new(output.clone(), layout::spending(&hash));
        let newest = list.newest().await?;
        let spending: Spending = newest
            .and_then(|(_, bytes)| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        endpoints.push(EndpointStatus {
            name: name.clone(),
            spent: spending.spent,
            possibly: spending.possibly,
            reserved: spending.reserved(),
            budget: endpoint.budget.as_ref().and_then(|budget| budget.money),
        });
    }
    Ok(Some(endpoints))
}

impl EndpointsStatus {
    /// The report as text.
    pub(crate) fn render(&self, text: &mut String) {
        for endpoint in &self.endpoints {
            let EndpointStatus {
                name,
                spent,
                possibly,
                reserved,
                budget,
            } = endpoint;
            let budget = budget.map_or_else(String::new, |budget| format!(" of {budget}"));
            let _ = write!(
                text,
                "  endpoint {name}: {}{budget} money, {} tokens, {} requests",
                money(spent.nanos),
                count(spent.tokens),
                count(spent.requests)
            );
            if possibly.requests > 0 {
                let _ = write!(
                    text,
                    "; in that {} that {} requests of lost workers may have cost",
                    money(possibly.nanos),
                    count(possibly.requests)
                );
            }
            if reserved.nanos > 0 {
                let _ = write!(text, "; {} reserved by workers", money(reserved.nanos));
            }
            text.push('\n');
        }
        if self.open_requests.is_empty() {
            return;
        }
        let _ = writeln!(
            text,
            "  {} requests were sent and have no reply: under way, or possibly paid for",
            count(self.open_requests.len() as u64)
        );
        for open in self.open_requests.iter().take(LISTED) {
            let _ = writeln!(
                text,
                "    {} ({}) by {}, up to {}",
                open.request.get(..16).unwrap_or(&open.request),
                open.stage,
                open.worker,
                money(open.estimate.nanos)
            );
        }
    }
}
