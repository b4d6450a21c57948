//! The access log: one line for each request, of the fields that `log.access_fields` lists, in that order.
//!
//! The line is the event's message, made only where somebody takes it: in text `request id=… path=…`, and
//! for JSON the members of an object, which [`telemetry::access`](crate::telemetry::access) puts among its own.

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::time::Duration;

use http::header::{HOST, REFERER, USER_AGENT};
use http::request::Parts;
use http::{HeaderValue, Method, Version};
use url::Url;

use crate::config::{AccessField, Log, LogFormat};
use crate::headers::redact;
use crate::peer::RequestId;

/// Characters of a stranger's header at most.
const MOST: usize = 256;
/// Characters of a path at most.
const LONGEST_PATH: usize = 2048;

/// Which fields a line has, and how it looks.
#[derive(Clone, Debug)]
pub struct AccessLog {
    fields: Vec<AccessField>,
    format: LogFormat,
}

/// What a line needs of a request's head once it is gone; empty where no field asks for it.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    version: Version,
    host: Option<String>,
    user_agent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    pub(super) id: &'a RequestId,
    pub(super) method: &'a Method,
    pub(super) target: &'a str,
    pub(super) status: u16,
    pub(super) route: &'static str,
    pub(super) client: IpAddr,
    pub(super) took: Duration,
    pub(super) kept: &'a Kept,
    pub(super) trace_id: Option<&'a str>,
}

impl AccessLog {
    /// The log that the configuration asks for; `None` where it asks for none.
    pub fn new(log: &Log) -> Option<Self> {
        log.access.then(|| Self { fields: log.access_fields.clone(), format: log.format })
    }

    /// Whether a line has this field.
    pub fn has(&self, field: AccessField) -> bool {
        self.fields.contains(&field)
    }

    /// Keeps what the fields need.
    pub fn keep(&self, request: &Parts) -> Kept {
        let header = |field, name| self.has(field).then(|| request.headers.get(name).cloned()).flatten();
        let host = self.has(AccessField::Host).then(|| {
            let named = request.uri.authority().map(|authority| authority.as_str().to_owned());
            named.or_else(|| request.headers.get(HOST).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()))
        });
        Kept {
            version: request.version,
            host: host.flatten(),
            user_agent: header(AccessField::UserAgent, USER_AGENT),
            referer: header(AccessField::Referer, REFERER),
        }
    }

    /// Writes a line.
    pub fn write(&self, line: Line<'_>) {
        tracing::info!(target: "gantry::access", "{}", Shown { log: self, line });
    }
}

struct Shown<'a> {
    log: &'a AccessLog,
    line: Line<'a>,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = self.log.format == LogFormat::Json;
        f.write_str(if json { "\"message\":\"request\"" } else { "request" })?;
        for field in &self.log.fields {
            let name = field.name();
            if json {
                write!(f, ",\"{name}\":")?;
            } else {
                write!(f, " {name}=")?;
            }
            match self.line.value(*field) {
                Value::Number(number) => write!(f, "{number}")?,
                Value::Absent if json => f.write_str("null")?,
                Value::Absent => f.write_char('-')?,
                Value::Plain(text) if !json => f.write_str(&text)?,
                Value::Plain(text) | Value::Strange(text) if json => {
                    f.write_str(&serde_json::to_string(&text).unwrap_or_else(|_| "null".to_owned()))?;
                }
                Value::Plain(text) | Value::Strange(text) => write!(f, "{text:?}")?,
            }
        }
        Ok(())
    }
}

enum Value {
    Number(u64),
    /// Printable ASCII without blanks.
    Plain(String),
    /// Whatever a stranger sent.
    Strange(String),
    Absent,
}

impl Line<'_> {
    fn value(&self, field: AccessField) -> Value {
        match field {
            AccessField::Id => Value::Plain(self.id.to_string()),
            AccessField::Method => Value::Plain(cut(self.method.as_str(), MOST)),
            AccessField::Path => Value::Plain(cut(&redact::path_and_query(self.target), LONGEST_PATH)),
            AccessField::Status => Value::Number(u64::from(self.status)),
            AccessField::Route => Value::Plain(self.route.to_owned()),
            AccessField::Client => Value::Plain(self.client.to_string()),
            AccessField::TookUs => Value::Number(u64::try_from(self.took.as_micros()).unwrap_or(u64::MAX)),
            AccessField::Protocol => Value::Plain(format!("{:?}", self.kept.version)),
            AccessField::Host => self.kept.host.as_deref().map_or(Value::Absent, |host| Value::Strange(cut(host, MOST))),
            AccessField::UserAgent => self.kept.user_agent.as_ref().map_or(Value::Absent, |value| Value::Strange(cut(&text(value), MOST))),
            AccessField::Referer => {
                self.kept.referer.as_ref().map_or(Value::Absent, |value| Value::Strange(cut(&referer(&text(value)), MOST)))
            }
            AccessField::TraceId => self.trace_id.map_or(Value::Absent, |id| Value::Plain(id.to_owned())),
        }
    }
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

/// An address without user, password, query and fragment, and without the credentials that may stand in its path.
fn referer(text: &str) -> String {
    match Url::parse(text) {
        Ok(url) if url.has_host() => format!("{}{}", url.origin().ascii_serialization(), redact::path_and_query(url.path())),
        _ => {
            let path = text.split(['?', '#']).next().unwrap_or_default();
            redact::path_and_query(path.rsplit('@').next().unwrap_or_default()).into_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn line(fields: &[AccessField], format: LogFormat, request: &Parts) -> String {
        let log = AccessLog { fields: fields.to_vec(), format };
        let kept = log.keep(request);
        let id = RequestId::given("abc").unwrap();
        let line = Line {
            id: &id,
            method: &request.method,
            target: request.uri.path_and_query().map_or("", |target| target.as_str()),
            status: 200,
            route: "upstream",
            client: "192.0.2.7".parse().unwrap(),
            took: Duration::from_micros(42),
            kept: &kept,
            trace_id: None,
        };
        Shown { log: &log, line }.to_string()
    }

    fn request(fields: &[(&str, &[u8])]) -> Parts {
        let mut request = Request::get("/home?resumeToken=s3cret&x=1").body(()).unwrap();
        for (name, value) in fields {
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().append(name, HeaderValue::from_bytes(value).unwrap());
        }
        request.into_parts().0
    }

    #[test]
    fn the_fields_stand_in_the_order_of_the_list() {
        use AccessField::{Client, Id, Method, Path, Protocol, Route, Status, TookUs, TraceId};
        let request = request(&[]);
        let text = line(&[Id, Method, Path, Status, Route, Client, TookUs], LogFormat::Text, &request);
        assert_eq!(text, "request id=abc method=GET path=/home?resumeToken=***&x=1 status=200 route=upstream client=192.0.2.7 took_us=42");
        assert_eq!(line(&[TookUs, Protocol, TraceId], LogFormat::Text, &request), "request took_us=42 protocol=HTTP/1.1 trace_id=-");
        let json = line(&[Status, Path, TraceId], LogFormat::Json, &request);
        assert_eq!(json, r#""message":"request","status":200,"path":"/home?resumeToken=***&x=1","trace_id":null"#);
    }

    fn outside_quotes(text: &str) -> String {
        let (mut out, mut quoted, mut escaped) = (String::new(), false, false);
        for c in text.chars() {
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                _ if quoted => {}
                c => out.push(c),
            }
        }
        out
    }

    #[test]
    fn no_header_forges_a_line_or_a_member() {
        use AccessField::{Host, Referer, UserAgent};
        let long = [b'x'; 2000];
        for agent in [&b"a\" status=200 x=\""[..], b"\xff\xfe\x80", b"a\tb", "Grüße \u{202e}".as_bytes(), &long] {
            let request = request(&[("user-agent", agent), ("referer", agent), ("host", agent)]);
            let text = line(&[UserAgent, Referer, Host], LogFormat::Text, &request);
            assert!(!text.chars().any(char::is_control) && text.len() < 3 * MOST + 100, "{text}");
            assert_eq!(outside_quotes(&text), "request user_agent= referer= host=", "{text}");
            let json = line(&[UserAgent, Referer, Host], LogFormat::Json, &request);
            let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&format!("{{{json}}}")).unwrap();
            assert_eq!(object.len(), 4, "{json}");
        }
    }

    #[test]
    fn a_referer_is_shown_without_what_is_secret_in_it() {
        for (sent, shown) in [
            ("https://user:s3cret@app.example.com/a/b?token=s3cret#s3cret", "https://app.example.com/a/b"),
            ("https://chat.example.com/reset-password/s3cret", "https://chat.example.com/reset-password/***"),
            ("/a?s3cret", "/a"),
            ("user:s3cret@app.example.com/a", "app.example.com/a"),
            ("about:blank", "about:blank"),
            ("", ""),
        ] {
            assert_eq!(referer(sent), shown, "{sent}");
        }
    }
}
