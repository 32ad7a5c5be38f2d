//! Who reaches the page of a run.

use serde_json::json;

use super::Change::{Remove, Set};
use super::{CRON_POD, JOB_POD, POLICY, REFRESH, RUN, argument, check, without};

const SERVICE: &str = "Service/gleaner-dashboard";

#[test]
fn the_page_is_reached_by_who_was_let_in() {
    let set = |document: &str, at: &str, value: serde_json::Value, expect: &str| {
        check("aws", document, at, Set(value), expect);
    };
    let at = argument(JOB_POD, 5);
    let loopback = json!("--dashboard=8081");
    set(RUN, &at, loopback, "--dashboard must listen to others");
    let elsewhere = json!("--dashboard=0.0.0.0:8082");
    set(RUN, &at, elsewhere, "the page's port is no port");
    let with_metrics = json!("--dashboard=0.0.0.0:8080");
    set(RUN, &at, with_metrics, "that collectors of metrics reach");
    let host = argument(CRON_POD, 6);
    let other = json!("--dashboard-host=dashboard");
    set(REFRESH, &host, other, "not answered by the name");
    let everywhere = json!([{"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "b"}}}]);
    let more = "more than labelled pods";
    set(POLICY, "/spec/ingress/1/from", everywhere, more);
    set(
        POLICY,
        "/spec/ingress/1/from",
        json!([{"podSelector": {}}]),
        more,
    );
    let block = json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}]);
    set(POLICY, "/spec/ingress/1/from", block, more);
    check("aws", POLICY, "/spec/ingress/0/ports", Remove, more);
    check("aws", POLICY, "/spec/ingress/1", Remove, "nobody is let in");
    set(
        SERVICE,
        "/spec/type",
        json!("LoadBalancer"),
        "leads in from outside",
    );
    let health = json!("health");
    set(
        SERVICE,
        "/spec/ports/0/targetPort",
        health,
        "does not lead to the page",
    );
    without("aws", SERVICE, "Service/gleaner-dashboard is missing");
}
