//! Whether and where events are sent: the environment first, by the names that other producers of
//! OpenLineage use, then the job file.

use std::fmt;
use std::time::Duration;

use gleaner_schemas::job::Lineage;
use url::Url;

/// Where a receiver takes events, if its URL has no path of its own.
const PATH: &str = "api/v1/lineage";

/// A receiver of events.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) url: Url,
    pub(super) namespace: String,
    pub(super) api_key: Option<String>,
    pub(super) timeout: Duration,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("host", &self.url.host_str())
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// The receiver that environment or job file name.
    ///
    /// # Errors
    ///
    /// A sentence, if there is one that cannot be used.
    pub(super) fn of(
        job_file: Option<&Lineage>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, String> {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let is_disabled = variable("OPENLINEAGE_DISABLED");
        if is_disabled.is_some_and(|value| value.trim().eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let by_variable = variable("OPENLINEAGE_URL");
        let named = by_variable
            .as_deref()
            .or(job_file.map(|it| it.url.as_str()));
        let Some(named) = named else {
            return Ok(None);
        };
        // The URL may hold a password, so it is not repeated.
        let mut url = Url::parse(named.trim())
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or("the URL of the receiver is not one of a server")?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "the URL of the receiver has a user or a password in it; give a key by \
                        OPENLINEAGE_API_KEY"
                    .to_owned(),
            );
        }
        if let Some(path) = variable("OPENLINEAGE_ENDPOINT") {
            let base = url.path().trim_end_matches('/').to_owned();
            url.set_path(&format!("{base}/{}", path.trim().trim_start_matches('/')));
        } else if url.path() == "/" {
            url.set_path(PATH);
        }
        let key = match job_file.and_then(|it| it.api_key_env.as_deref()) {
            Some(name) if by_variable.is_none() => Some(
                variable(name).ok_or_else(|| format!("the environment has no variable {name}"))?,
            ),
            _ => variable("OPENLINEAGE_API_KEY"),
        };
        let namespace = variable("OPENLINEAGE_NAMESPACE");
        let namespace = namespace.or_else(|| job_file.map(|it| it.namespace.clone()));
        Ok(Some(Self {
            url,
            namespace: namespace.unwrap_or_else(|| Lineage::NAMESPACE.to_owned()),
            api_key: key,
            timeout: job_file.map_or(Lineage::TIMEOUT, |it| it.timeout.duration()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gleaner_schemas::units::HumanDuration;

    fn job_file() -> Lineage {
        Lineage {
            url: "http://marquez:5000".to_owned(),
            namespace: "nightly".to_owned(),
            api_key_env: Some("MINE".to_owned()),
            timeout: HumanDuration::new(Duration::from_secs(2)),
        }
    }

    fn of(
        job_file: Option<&Lineage>,
        variables: &[(&str, &str)],
    ) -> Result<Option<Settings>, String> {
        Settings::of(job_file, |name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_comes_first() {
        assert_eq!(of(None, &[]), Ok(None));
        let found = of(Some(&job_file()), &[("MINE", "k")]).unwrap().unwrap();
        assert_eq!(found.url.as_str(), "http://marquez:5000/api/v1/lineage");
        assert_eq!(
            (found.namespace.as_str(), found.timeout.as_secs()),
            ("nightly", 2)
        );
        assert_eq!(found.api_key.as_deref(), Some("k"));
        let variables = [
            ("OPENLINEAGE_URL", "https://other/base"),
            ("OPENLINEAGE_NAMESPACE", "mine"),
            ("OPENLINEAGE_API_KEY", "theirs"),
        ];
        let found = of(Some(&job_file()), &variables).unwrap().unwrap();
        assert_eq!(found.url.as_str(), "https://other/base");
        assert_eq!(found.namespace, "mine");
        assert_eq!(found.api_key.as_deref(), Some("theirs"));
        let with_path = [variables[0], ("OPENLINEAGE_ENDPOINT", "/v2/events")];
        let found = of(None, &with_path).unwrap().unwrap();
        assert_eq!(found.url.as_str(), "https://other/base/v2/events");
        let off = [variables[0], ("OPENLINEAGE_DISABLED", "True")];
        assert_eq!(of(None, &off), Ok(None));
    }

    #[test]
    fn what_cannot_be_used_is_said_without_its_secrets() {
        for url in ["marquez:5000", "ftp://x", "http://me:hidden@marquez"] {
            let reason = of(None, &[("OPENLINEAGE_URL", url)]).unwrap_err();
            assert!(!reason.contains("hidden"), "{reason}");
        }
        let reason = of(Some(&job_file()), &[]).unwrap_err();
        assert!(reason.contains("MINE"), "{reason}");
        let settings = of(Some(&job_file()), &[("MINE", "hidden")])
            .unwrap()
            .unwrap();
        assert!(!format!("{settings:?}").contains("hidden"));
    }
}
