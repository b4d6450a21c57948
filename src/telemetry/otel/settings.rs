//! OpenTelemetry's environment variables: <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>
//! and <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>.
//!
//! A value that makes no sense is told of and left aside, as the specification wants it: traces are no
//! reason not to start.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::Sampler;
use percent_encoding::percent_decode_str;
use url::Url;

use crate::peer::RequestId;

/// Where OTLP over HTTP is by default.
const DEFAULT_ENDPOINT: &str = "http://localhost:4318";

/// What traces are exported with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where spans are posted to.
    pub endpoint: Url,
    /// Headers beyond our own; they may be credentials.
    pub headers: HeaderMap,
    /// How long one post may take.
    pub timeout: Duration,
    /// Roots for an https endpoint, besides the platform's.
    pub ca_file: Option<PathBuf>,
    /// `service.name` and the like.
    pub attributes: BTreeMap<String, String>,
    /// Which requests are recorded.
    pub sampling: Sampling,
    /// Whether `traceparent` is read and written.
    pub propagates: bool,
    /// Spans that may wait.
    pub max_queue: usize,
    /// Spans of one post at most.
    pub max_batch: usize,
    /// How long a span waits for others at most.
    pub delay: Duration,
    /// How long one batch is tried for.
    pub export_timeout: Duration,
}

/// Which requests are recorded; `true` heeds the decision of a trusted parent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampling {
    /// All.
    On {
        /// Whether a trusted parent decides.
        parent: bool,
    },
    /// None.
    Off {
        /// Whether a trusted parent decides.
        parent: bool,
    },
    /// This share, by trace id.
    Ratio {
        /// From 0 to 1.
        ratio: f64,
        /// Whether a trusted parent decides.
        parent: bool,
    },
}

impl fmt::Display for Sampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, parent) = match self {
            Self::On { parent } => ("always_on", parent),
            Self::Off { parent } => ("always_off", parent),
            Self::Ratio { parent, .. } => ("traceidratio", parent),
        };
        write!(f, "{}{name}", if *parent { "parentbased_" } else { "" })?;
        if let Self::Ratio { ratio, .. } = self { write!(f, " {ratio}") } else { Ok(()) }
    }
}

impl Sampling {
    pub(super) fn sampler(self) -> Sampler {
        let (sampler, parent) = match self {
            Self::On { parent } => (Sampler::AlwaysOn, parent),
            Self::Off { parent } => (Sampler::AlwaysOff, parent),
            Self::Ratio { ratio, parent } => (Sampler::TraceIdRatioBased(ratio), parent),
        };
        if parent { Sampler::ParentBased(Box::new(sampler)) } else { sampler }
    }
}

impl Settings {
    /// What the environment asks for, and what in it makes no sense, in words for the log. `None`: no traces.
    pub fn from_env<'e>(env: impl IntoIterator<Item = (&'e str, &'e str)>) -> (Option<Self>, Vec<String>) {
        // An empty value is as good as none.
        let vars: BTreeMap<&str, &str> = env
            .into_iter()
            .filter(|(name, value)| name.starts_with("OTEL_") && !value.trim().is_empty())
            .map(|(name, value)| (name, value.trim()))
            .collect();
        let mut reader = Reader { vars, complaints: Vec::new() };
        let settings = reader.settings();
        (settings, reader.complaints)
    }

    /// The endpoint for the log.
    pub(super) fn shown_endpoint(&self) -> String {
        format!("{}{}", self.endpoint.origin().ascii_serialization(), self.endpoint.path())
    }

    pub(super) fn resource(&self) -> Resource {
        let ours = [
            ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("telemetry.sdk.language", "rust".to_owned()),
            ("telemetry.sdk.name", "opentelemetry".to_owned()),
            ("process.pid", std::process::id().to_string()),
        ];
        let mut all: BTreeMap<String, String> = ours.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        all.insert("service.instance.id".to_owned(), RequestId::random().to_string());
        all.extend(self.attributes.clone());
        Resource::builder_empty().with_attributes(all.into_iter().map(|(key, value)| KeyValue::new(key, value))).build()
    }
}

struct Reader<'e> {
    vars: BTreeMap<&'e str, &'e str>,
    complaints: Vec<String>,
}

impl<'e> Reader<'e> {
    fn settings(&mut self) -> Option<Settings> {
        if self.get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return None;
        }
        let named = self.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| self.get("OTEL_EXPORTER_OTLP_ENDPOINT")).is_some();
        match self.get("OTEL_TRACES_EXPORTER") {
            None if !named => return None,
            None | Some("otlp") => {}
            Some("none") => return None,
            Some(other) => {
                self.complain(format!(
                    "OTEL_TRACES_EXPORTER = {other:?}: Gantry exports by \"otlp\" or \"none\" only, so there are no traces"
                ));
                return None;
            }
        }
        let (name, protocol) = self.of_traces("PROTOCOL").unwrap_or(("", "http/protobuf"));
        if protocol != "http/protobuf" {
            let hint = "set it to \"http/protobuf\", and the endpoint to the collector's HTTP port (4318, not 4317)";
            self.complain(format!("{name} = {protocol:?}: Gantry speaks http/protobuf only, so there are no traces; {hint}"));
            return None;
        }
        let endpoint = self.endpoint()?;
        if let Some((name, value)) = self.of_traces("COMPRESSION").filter(|(_, value)| *value != "none") {
            self.complain(format!("{name} = {value:?}: spans are sent uncompressed"));
        }
        for what in ["CLIENT_KEY", "CLIENT_CERTIFICATE"] {
            if let Some((name, _)) = self.of_traces(what) {
                self.complain(format!("{name} is not supported and has no effect"));
            }
        }
        let max_queue = self.number("OTEL_BSP_MAX_QUEUE_SIZE", 2048, 1, 1 << 20);
        let max_batch = self.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512, 1, 1 << 20);
        Some(Settings {
            endpoint,
            headers: self.headers(),
            timeout: self.of_traces("TIMEOUT").map_or(Duration::from_secs(10), |(name, _)| self.millis(name, 10_000)),
            ca_file: self.of_traces("CERTIFICATE").map(|(_, path)| PathBuf::from(path)),
            attributes: self.attributes(),
            sampling: self.sampling(),
            propagates: self.propagates(),
            max_queue: usize::try_from(max_queue).unwrap_or(2048),
            max_batch: usize::try_from(max_batch.min(max_queue)).unwrap_or(512),
            delay: self.millis("OTEL_BSP_SCHEDULE_DELAY", 5000),
            export_timeout: self.millis("OTEL_BSP_EXPORT_TIMEOUT", 30_000),
        })
    }

    fn get(&self, name: &str) -> Option<&'e str> {
        self.vars.get(name).copied()
    }

    /// `OTEL_EXPORTER_OTLP_TRACES_<what>`, else `OTEL_EXPORTER_OTLP_<what>`, with the name of the one that counts.
    fn of_traces(&self, what: &str) -> Option<(&'e str, &'e str)> {
        [format!("OTEL_EXPORTER_OTLP_TRACES_{what}"), format!("OTEL_EXPORTER_OTLP_{what}")]
            .iter()
            .find_map(|name| self.vars.get_key_value(name.as_str()).map(|(name, value)| (*name, *value)))
    }

    fn complain(&mut self, words: String) {
        self.complaints.push(words);
    }

    fn endpoint(&mut self) -> Option<Url> {
        let (name, value, appended) = match self.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
            Some(value) => ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", value, ""),
            None => ("OTEL_EXPORTER_OTLP_ENDPOINT", self.get("OTEL_EXPORTER_OTLP_ENDPOINT").unwrap_or(DEFAULT_ENDPOINT), "/v1/traces"),
        };
        let url = Url::parse(value).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let Some(mut url) = url else {
            let hint = "write it like \"http://collector:4318\"";
            self.complain(format!("{name} is no http:// or https:// address, so there are no traces; {hint}"));
            return None;
        };
        if !appended.is_empty() {
            let path = format!("{}{appended}", url.path().trim_end_matches('/'));
            url.set_path(&path);
        }
        Some(url)
    }

    /// `name=value` pairs, comma separated, values percent-encoded (W3C Baggage).
    fn pairs(&mut self, name: &str, text: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let decoded = pair.split_once('=').and_then(|(key, value)| {
                let key = percent_decode_str(key.trim()).decode_utf8().ok()?;
                let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
                (!key.is_empty()).then(|| (key.into_owned(), value.into_owned()))
            });
            match decoded {
                Some(pair) => found.push(pair),
                // What stands there may be a credential.
                None => self.complain(format!("{name}: one of its entries is not of the form name=value and is left out")),
            }
        }
        found
    }

    fn headers(&mut self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for name in ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"] {
            let Some(text) = self.get(name) else { continue };
            for (key, value) in self.pairs(name, text) {
                match (HeaderName::try_from(&key), HeaderValue::try_from(value)) {
                    (Ok(key), Ok(mut value)) => {
                        value.set_sensitive(true);
                        headers.insert(key, value);
                    }
                    _ => self.complain(format!("{name}: one of its entries is no header and is left out")),
                }
            }
        }
        headers
    }

    fn attributes(&mut self) -> BTreeMap<String, String> {
        let mut attributes = BTreeMap::from([("service.name".to_owned(), "gantry".to_owned())]);
        if let Some(text) = self.get("OTEL_RESOURCE_ATTRIBUTES") {
            attributes.extend(self.pairs("OTEL_RESOURCE_ATTRIBUTES", text));
        }
        if let Some(name) = self.get("OTEL_SERVICE_NAME") {
            attributes.insert("service.name".to_owned(), name.to_owned());
        }
        attributes
    }

    fn sampling(&mut self) -> Sampling {
        let default = Sampling::On { parent: true };
        match self.get("OTEL_TRACES_SAMPLER").unwrap_or("parentbased_always_on") {
            "always_on" => Sampling::On { parent: false },
            "always_off" => Sampling::Off { parent: false },
            "traceidratio" => Sampling::Ratio { ratio: self.ratio(), parent: false },
            "parentbased_always_on" => default,
            "parentbased_always_off" => Sampling::Off { parent: true },
            "parentbased_traceidratio" => Sampling::Ratio { ratio: self.ratio(), parent: true },
            other => {
                self.complain(format!("OTEL_TRACES_SAMPLER = {other:?} is not known here; \"parentbased_always_on\" is used"));
                default
            }
        }
    }

    fn ratio(&mut self) -> f64 {
        let Some(text) = self.get("OTEL_TRACES_SAMPLER_ARG") else { return 1.0 };
        text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)).unwrap_or_else(|| {
            self.complain(format!("OTEL_TRACES_SAMPLER_ARG = {text:?} is no number from 0 to 1; 1 is used"));
            1.0
        })
    }

    fn propagates(&mut self) -> bool {
        let Some(text) = self.get("OTEL_PROPAGATORS") else { return true };
        let mut propagates = false;
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name {
                "tracecontext" => propagates = true,
                // Passed on as it came, like any other header.
                "baggage" | "none" => {}
                other => self.complain(format!("OTEL_PROPAGATORS: {other:?} is not known here; there is \"tracecontext\"")),
            }
        }
        propagates
    }

    fn number(&mut self, name: &str, default: u64, least: u64, most: u64) -> u64 {
        let Some(text) = self.get(name) else { return default };
        text.parse().ok().filter(|number| (least..=most).contains(number)).unwrap_or_else(|| {
            self.complain(format!("{name} = {text:?} is no number from {least} to {most}; {default} is used"));
            default
        })
    }

    fn millis(&mut self, name: &str, default: u64) -> Duration {
        Duration::from_millis(self.number(name, default, 1, 3_600_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

    fn read(vars: &[(&'static str, &'static str)]) -> (Option<Settings>, Vec<String>) {
        Settings::from_env(vars.iter().copied())
    }

    #[test]
    fn traces_are_on_only_where_the_environment_says_so() {
        for (vars, endpoint, complaint) in [
            (&[][..], None, ""),
            (&[("OTEL_SERVICE_NAME", "chat")], None, ""),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")], None, ""),
            (&[ON], Some("http://collector:4318/v1/traces"), ""),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector/otlp/")], Some("https://collector/otlp/v1/traces"), ""),
            (&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t:1/x"), ON], Some("http://t:1/x"), ""),
            (&[("OTEL_TRACES_EXPORTER", "otlp")], Some("http://localhost:4318/v1/traces"), ""),
            (&[ON, ("OTEL_TRACES_EXPORTER", "none")], None, ""),
            (&[ON, ("OTEL_SDK_DISABLED", "TRUE")], None, ""),
            (&[ON, ("OTEL_SDK_DISABLED", "1")], Some("http://collector:4318/v1/traces"), ""),
            (&[ON, ("OTEL_TRACES_EXPORTER", "zipkin")], None, "OTEL_TRACES_EXPORTER = \"zipkin\""),
            (&[ON, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], None, "4318, not 4317"),
            (&[ON, ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json")], None, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318")], None, "no http:// or https:// address"),
        ] {
            let (settings, complaints) = read(vars);
            assert_eq!(settings.map(|settings| settings.endpoint.to_string()).as_deref(), endpoint, "{vars:?}");
            assert_eq!(complaints.len(), usize::from(!complaint.is_empty()), "{vars:?}: {complaints:?}");
            assert!(complaints.iter().all(|said| said.contains(complaint)), "{vars:?}: {complaints:?}");
        }
    }

    #[test]
    fn samplers() {
        for (name, arg, expected) in [
            ("always_on", "", Sampling::On { parent: false }),
            ("always_off", "", Sampling::Off { parent: false }),
            ("traceidratio", "0.25", Sampling::Ratio { ratio: 0.25, parent: false }),
            ("parentbased_always_off", "", Sampling::Off { parent: true }),
            ("parentbased_traceidratio", "0.5", Sampling::Ratio { ratio: 0.5, parent: true }),
            ("parentbased_traceidratio", "", Sampling::Ratio { ratio: 1.0, parent: true }),
        ] {
            let (settings, complaints) = read(&[ON, ("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", arg)]);
            let sampling = settings.unwrap().sampling;
            assert_eq!(sampling, expected, "{name}");
            assert!(sampling.to_string().starts_with(name), "{sampling}");
            assert!(complaints.is_empty(), "{complaints:?}");
        }
        assert_eq!(read(&[ON]).0.unwrap().sampling, Sampling::On { parent: true });
    }

    #[test]
    fn what_makes_no_sense_is_told_of_and_left_aside() {
        let (settings, complaints) = read(&[
            ON,
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret,broken,a b=c"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_PROPAGATORS", "b3"),
        ]);
        let settings = settings.unwrap();
        assert_eq!(settings.headers.get("authorization").unwrap(), "Bearer s3cret");
        assert_eq!((settings.timeout, settings.max_queue, settings.propagates), (Duration::from_secs(10), 2048, false));
        for name in
            ["SAMPLER", "HEADERS: one of its entries is not", "HEADERS: one of its entries is no header", "TIMEOUT", "QUEUE", "COMPR", "b3"]
        {
            assert!(complaints.iter().any(|said| said.contains(name)), "{name}: {complaints:?}");
        }
        let said = format!("{complaints:?} {settings:?}");
        assert!(!said.contains("s3cret"), "{said}");
    }

    #[test]
    fn what_is_said_of_the_service() {
        let vars = [
            ON,
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=x,deployment.environment.name=a%20b"),
            ("OTEL_SERVICE_NAME", "chat"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=1,b=1"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "b=2"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "5000"),
        ];
        let settings = read(&vars).0.unwrap();
        assert_eq!(settings.attributes["service.name"], "chat");
        assert_eq!(settings.attributes["deployment.environment.name"], "a b");
        assert_eq!((settings.headers["a"].as_bytes(), settings.headers["b"].as_bytes()), (&b"1"[..], &b"2"[..]));
        assert_eq!(settings.max_batch, settings.max_queue, "no batch is larger than the queue");
        let names: Vec<String> = settings.resource().iter().map(|(key, _)| key.to_string()).collect();
        assert!(names.contains(&"service.instance.id".to_owned()), "{names:?}");
    }
}
