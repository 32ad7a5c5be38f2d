//! Metrics in the text format of Prometheus.

use std::time::Duration;

use gleaner_schemas::metric::{self, Form};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::TelemetryError;

/// Observations are sorted into their buckets at least this often, so that they do not pile up
/// where nobody asks for metrics.
pub(crate) const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// The metrics of this process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Collects what the libraries record from now on. Once per process.
    ///
    /// # Errors
    ///
    /// If something collects already.
    pub fn install() -> Result<Self, TelemetryError> {
        let recorder = builder()?.build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|_| TelemetryError::Metrics)?;
        describe();
        Ok(Self(handle))
    }

    /// What is known now, as Prometheus reads it.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.render()
    }

    pub(crate) fn run_upkeep(&self) {
        self.0.run_upkeep();
    }
}

fn builder() -> Result<PrometheusBuilder, TelemetryError> {
    metric::ALL
        .iter()
        .try_fold(PrometheusBuilder::new(), |builder, metric| {
            match metric.form {
                Form::Histogram(buckets) => builder
                    .set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)
                    // Only an empty list of buckets is refused.
                    .map_err(|_| TelemetryError::Metrics),
                Form::Counter | Form::Gauge => Ok(builder),
            }
        })
}

fn describe() {
    for metric in metric::ALL {
        match metric.form {
            Form::Counter => metrics::describe_counter!(metric.name, metric.help),
            Form::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Form::Histogram(_) => metrics::describe_histogram!(metric.name, metric.help),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_shown_with_its_help() {
        let recorder = builder().unwrap().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            metrics::counter!(metric::ATTEMPTS, "outcome" => "committed").increment(2);
            metrics::gauge!(metric::SLOTS).set(3.0);
            metrics::histogram!(metric::ATTEMPT_SECONDS_NAME, "phase" => "count").record(0.3);
        });
        let text = Metrics(handle).render();
        for line in [
            "# HELP gleaner_attempts_total Attempts at tasks, by outcome and kind of failure",
            "# TYPE gleaner_attempts_total counter",
            "gleaner_attempts_total{outcome=\"committed\"} 2",
            "gleaner_slots 3",
            "gleaner_attempt_seconds_bucket{phase=\"count\",le=\"0.25\"} 0",
            "gleaner_attempt_seconds_bucket{phase=\"count\",le=\"0.5\"} 1",
            "gleaner_attempt_seconds_count{phase=\"count\"} 1",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
        }
    }
}
