//! `embed.js`, the optional script for host pages, and its types.
//!
//! Nothing of the configuration is in them, so that the hash of a version is the same everywhere and a page can pin
//! it (Subresource Integrity). They are no secret, and are read across origins without credentials.

use aws_lc_rs::digest::{SHA384, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::header::{HeaderName, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::pages::json_error;
use crate::headers::tokens;
use crate::peer::RequestId;

/// The script.
pub const EMBED: &str = include_str!("assets/embed.js");
/// What its types are.
pub const EMBED_TYPES: &str = include_str!("assets/embed.d.ts");
/// The name under which this version's script never changes.
pub const PINNED: &str = concat!("embed-", env!("CARGO_PKG_VERSION"), ".js");

const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// One of these files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// `embed.js`: asked for again each time, and hardly ever sent again.
    Embed,
    /// `embed-<version>.js` of this version.
    Pinned,
    /// `embed.d.ts`.
    Types,
    /// `embed-<version>.js` of another version.
    Elsewhere,
}

impl Script {
    /// What stands at a path below our prefix.
    pub fn at(rest: &str) -> Option<Self> {
        match rest {
            "embed.js" => Some(Self::Embed),
            "embed.d.ts" => Some(Self::Types),
            PINNED => Some(Self::Pinned),
            _ => {
                let version = rest.strip_prefix("embed-")?.strip_suffix(".js")?;
                (!version.contains('/')).then_some(Self::Elsewhere)
            }
        }
    }
}

/// What `integrity` says of the script.
pub fn integrity() -> String {
    format!("sha384-{}", STANDARD.encode(digest(&SHA384, EMBED.as_bytes())))
}

/// A file as it is answered.
#[derive(Clone, Debug)]
struct File {
    body: &'static str,
    media_type: HeaderValue,
    etag: HeaderValue,
}

/// The files, with their tags.
#[derive(Clone, Debug)]
pub struct Scripts {
    embed: File,
    types: File,
}

impl File {
    fn new(body: &'static str, media_type: &'static str) -> Self {
        let tag = STANDARD.encode(&digest(&SHA384, body.as_bytes()).as_ref()[..18]);
        let etag = HeaderValue::try_from(format!("\"{tag}\"")).expect("base64 is visible ASCII");
        Self { body, media_type: HeaderValue::from_static(media_type), etag }
    }

    fn answer(&self, asked: &HeaderMap, keep: &'static str) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        // A 304 says all of this too: the browser holds the stored answer to it.
        headers.insert(ETAG, self.etag.clone());
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(keep));
        headers.insert(CONTENT_TYPE, self.media_type.clone());
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if self.known_to(asked) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            // Said here, since the body is left out of answers to HEAD.
            headers.insert(CONTENT_LENGTH, HeaderValue::from(self.body.len()));
            *response.body_mut() = Bytes::from_static(self.body.as_bytes());
        }
        response
    }

    /// Whether whoever asks has it already. Compared weakly (RFC 9110 §13.1.2): a proxy that compresses makes our
    /// tag weak.
    fn known_to(&self, asked: &HeaderMap) -> bool {
        tokens(asked, IF_NONE_MATCH).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == self.etag.as_bytes())
    }
}

impl Default for Scripts {
    fn default() -> Self {
        Self { embed: File::new(EMBED, "text/javascript; charset=utf-8"), types: File::new(EMBED_TYPES, "text/plain; charset=utf-8") }
    }
}

impl Scripts {
    /// Answers a request for one of them.
    pub fn answer(&self, script: Script, method: &Method, headers: &HeaderMap, id: &RequestId) -> Response<Bytes> {
        const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");
        let mut response = match (method, script) {
            (&Method::OPTIONS, _) => {
                let mut response = Response::new(Bytes::new());
                *response.status_mut() = StatusCode::NO_CONTENT;
                response.headers_mut().insert(ALLOW, METHODS);
                response
            }
            (&Method::GET | &Method::HEAD, Script::Embed) => self.embed.answer(headers, "no-cache"),
            (&Method::GET | &Method::HEAD, Script::Pinned) => self.embed.answer(headers, "public, max-age=31536000, immutable"),
            (&Method::GET | &Method::HEAD, Script::Types) => self.types.answer(headers, "no-cache"),
            (&Method::GET | &Method::HEAD, Script::Elsewhere) => {
                let words =
                    format!("This Gantry has {PINNED} and no other version. Take embed.js, or the element that `gantry embed` prints.");
                json_error(StatusCode::NOT_FOUND, "not_found", &words, id)
            }
            _ => {
                let words = "This method is not allowed here.";
                let mut response = json_error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", words, id);
                response.headers_mut().insert(ALLOW, METHODS);
                response
            }
        };
        // Integrity is checked on answers to CORS requests alone, and pages that isolate themselves (COEP) ask for
        // the other one.
        response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        response.headers_mut().insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("cross-origin"));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::RefusalKind;

    #[test]
    fn names() {
        for (rest, script) in [
            ("embed.js", Some(Script::Embed)),
            (PINNED, Some(Script::Pinned)),
            ("embed.d.ts", Some(Script::Types)),
            ("embed-0.0.0.js", Some(Script::Elsewhere)),
            ("embed-.js", Some(Script::Elsewhere)),
            ("embed-1/2.js", None),
            ("embed.js/", None),
            ("embed", None),
            ("Embed.js", None),
        ] {
            assert_eq!(Script::at(rest), script, "{rest}");
        }
    }

    #[test]
    fn who_has_it_already_is_not_sent_it_again() {
        let file = Scripts::default().embed;
        let tag = file.etag.to_str().unwrap().to_owned();
        for (given, known) in [
            (vec![], false),
            (vec![tag.clone()], true),
            (vec![format!("W/{tag}")], true),
            (vec![format!("\"other\", {tag}")], true),
            (vec!["\"other\"".to_owned(), tag.clone()], true),
            (vec!["*".to_owned()], true),
            (vec!["\"other\"".to_owned()], false),
            (vec![tag.trim_matches('"').to_owned()], false),
            (vec![String::new()], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in &given {
                headers.append(IF_NONE_MATCH, value.parse().unwrap());
            }
            let answer = file.answer(&headers, "no-cache");
            assert_eq!(answer.status() == StatusCode::NOT_MODIFIED, known, "{given:?}");
            assert_eq!(answer.body().is_empty(), known, "{given:?}");
            assert_eq!(answer.headers()[ETAG], tag.as_str());
        }
    }

    /// The script in the chat's pages, which says some of the words.
    const GUARD: &str = include_str!("assets/guard.js");

    #[test]
    fn every_name_of_the_types_is_in_the_script() {
        let codes: Vec<&str> = RefusalKind::ALL.iter().map(|kind| kind.code()).collect();
        for code in &codes {
            assert!(EMBED_TYPES.contains(&format!("'{code}'")), "{code} is a refusal, and not in the types");
        }
        // Declarations: `name:`, `name?:`, `name(`, `name<`; and every literal.
        let mut seen = 0;
        for line in EMBED_TYPES.lines().map(str::trim).filter(|line| !line.starts_with(['/', '*'])) {
            let line = line.trim_start_matches("readonly ").trim_start_matches("function ");
            let name: String = line.chars().take_while(char::is_ascii_alphanumeric).collect();
            if !name.is_empty() && line[name.len()..].starts_with([':', '?', '(', '<']) {
                let word = |text: &str| text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == name);
                assert!(word(EMBED), "{name}: declared, and not in the script");
                seen += 1;
            }
            for literal in line.split('\'').skip(1).step_by(2).filter(|literal| !codes.contains(literal)) {
                let bare = literal.trim_start_matches("gantry-");
                let there = [format!("'{literal}'"), format!("'{bare}'"), format!("{bare}:")]
                    .iter()
                    .any(|form| EMBED.contains(form.as_str()) || GUARD.contains(form.as_str()));
                assert!(there, "'{literal}': declared, and not in the script");
                seen += 1;
            }
        }
        assert!(seen > 50, "only {seen} names were looked at");
    }
}
