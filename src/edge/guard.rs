//! What is done to Rocket.Chat's pages so that the chat in a browser and the host session there stay in step: our script
//! goes into them, and on the way it is looked whether the two still belong together.

mod answer;
mod script;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, HeaderName, IF_MATCH, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE, SET_COOKIE, TRAILER,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response};

use self::answer::Reads;
use super::pages::html as attribute;
use crate::body::Body;
use crate::config::Config;
use crate::error::Refusal;
use crate::headers::tokens;
use crate::html::{Decoder, Insertion, Page};
use crate::identity::Credentials;
use crate::login::binding::Binding;
use crate::login::{Login, Verdict};
use crate::metrics::{Limit, Metrics, PageFate, Shard};

/// Beginnings of paths that are no pages of the chat's: its API, files, the widget, and other services' sign-in, whose
/// pages belong to the step that they are in.
const OTHERS: [&str; 8] = ["/api", "/file-upload", "/avatar", "/livechat", "/ufs", "/_oauth", "/_saml", "/_cas"];
/// Conditions and parts: a page is always sent anew and whole, so that none without the script is shown.
const CONDITIONS: [HeaderName; 6] = [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_MATCH, IF_UNMODIFIED_SINCE, IF_RANGE, RANGE];
/// What was true of the page before it was changed.
const OUTDATED: [HeaderName; 9] = [
    CONTENT_LENGTH,
    ETAG,
    LAST_MODIFIED,
    ACCEPT_RANGES,
    TRAILER,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

/// The rule for pages, prepared once.
#[derive(Debug)]
pub struct Guard {
    /// The element with our script, up to where what was found goes; `None` when it is switched off.
    element: Option<String>,
    /// Of the workspace's own paths: empty, or like `/chat`.
    base: String,
    memory: usize,
    wait: Duration,
    metrics: Arc<Metrics>,
    /// Whether a coding that cannot be read was told of.
    told: AtomicBool,
}

/// A page that was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    head: bool,
    gzip: bool,
}

/// What was found about a browser that asks for a page.
#[derive(Debug)]
pub(super) struct Found {
    /// What the page has to forget, as the script is told.
    forget: String,
    /// What becomes of the cookie that says which chat session the browser has.
    cookie: Option<HeaderValue>,
}

impl Guard {
    /// The rule of a configuration.
    pub fn new(config: &Config, metrics: Arc<Metrics>) -> Self {
        let base = config.rocketchat.url.path().trim_end_matches('/').to_owned();
        let element = config.session.guard_script.then(|| element(config, &base));
        Self { element, base, memory: config.limits.page_memory, wait: config.session.page_wait, metrics, told: AtomicBool::new(false) }
    }

    /// Whether our script goes into pages.
    fn is_on(&self) -> bool {
        self.element.is_some()
    }

    /// Whether a request is for a page of the chat's, as far as that can be told: cheap, since it is asked of each.
    pub(super) fn asked(&self, parts: &Parts) -> Option<Asked> {
        let headers = &parts.headers;
        let head = match parts.method {
            Method::GET => false,
            Method::HEAD => true,
            _ => return None,
        };
        if !headers.get_all(ACCEPT).iter().any(|accept| memchr::memmem::find(accept.as_bytes(), b"text/html").is_some()) {
            return None;
        }
        let dest = headers.get("sec-fetch-dest").map(HeaderValue::as_bytes);
        if dest.is_some_and(|dest| !matches!(dest, b"document" | b"iframe" | b"frame")) {
            return None;
        }
        let path = parts.uri.path();
        let path = path.strip_prefix(self.base.as_str()).unwrap_or(path);
        let other = |start: &&str| path.strip_prefix(*start).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if OTHERS.iter().any(other) || tokens(headers, CACHE_CONTROL).any(|word| word.eq_ignore_ascii_case("no-transform")) {
            return None;
        }
        Some(Asked { head, gzip: takes_gzip(headers) })
    }

    /// Whether anything is to be done about such a request.
    pub(super) fn concerns(&self, parts: &Parts, login: &Login) -> bool {
        self.element.is_some() || login.bindings().of(&parts.headers).is_some()
    }

    /// The request as it goes on.
    pub(super) fn onward(&self, parts: &Parts) -> Parts {
        let mut parts = parts.clone();
        if self.element.is_some() {
            for name in &CONDITIONS {
                parts.headers.remove(name);
            }
            readable_only(&mut parts.headers);
        }
        parts
    }

    /// Looks whether the browser's chat session still belongs to its host session. `None`: there is nothing to be said, or
    /// not in time; the look goes on by itself then.
    pub(super) async fn look(&self, login: &Login, headers: &HeaderMap, credentials: Result<Credentials, Refusal>) -> Option<Found> {
        let kept = login.bindings().of(headers)?;
        let mut binding = kept.clone();
        if headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site") {
            // A link or a frame of another site's: a browser then keeps back cookies that are SameSite=Strict, and ours is
            // not. That the host session is missing says nothing; the script asks from the page itself.
            binding.rides_along = false;
        }
        let looking = login.clone();
        let look = tokio::task::spawn_local(async move { looking.verdict(&binding, credentials).await });
        match tokio::time::timeout(self.wait, look).await {
            Ok(Ok(verdict)) if verdict != Verdict::Stays => {
                let cookie = match verdict {
                    Verdict::Ended => Some(login.bindings().removal()),
                    // Remembered by the browser from here on.
                    Verdict::SignedOut if !kept.signed_out => login.bindings().cookie(&Binding { signed_out: true, ..kept.clone() }),
                    Verdict::SignedOut | Verdict::Stays => None,
                };
                Some(Found { forget: fingerprint(kept.token.expose()), cookie })
            }
            Ok(_) => None,
            Err(_) => {
                self.metrics.limit_hit(Limit::PageWait);
                None
            }
        }
    }

    /// Makes an answer what it has to be: with our script in it, if it is a page, and with what was found.
    pub(super) fn dress<U>(&self, asked: Asked, found: Option<Found>, response: Response<U>, shard: &Shard) -> Response<Body<U>> {
        let (mut parts, body) = response.into_parts();
        let reads = Reads::of(&parts);
        if matches!(reads, Reads::NoPage) {
            return Response::from_parts(parts, Body::Passed(body));
        }
        if let Some(found) = &found {
            if let Some(cookie) = &found.cookie {
                parts.headers.append(SET_COOKIE, cookie.clone());
            }
            parts.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        let Some(element) = &self.element else { return Response::from_parts(parts, Body::Passed(body)) };
        let (decoder, coded) = match reads {
            Reads::As(decoder) => {
                let coded = !decoder.is_plain();
                (decoder, coded)
            }
            Reads::NoPage | Reads::NotAsked => {
                shard.page(PageFate::Passed);
                return Response::from_parts(parts, Body::Passed(body));
            }
            Reads::Unknown(coding) => {
                shard.page(PageFate::Passed);
                if !self.told.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        %coding,
                        "Rocket.Chat, or what stands before it, codes its pages in a way that was not asked for, so that the guard \
                         script cannot be put into them; have it send gzip, or nothing. This is said once"
                    );
                }
                return Response::from_parts(parts, Body::Passed(body));
            }
        };
        shard.page(if found.is_some() { PageFate::Forgetful } else { PageFate::Guarded });
        for name in &OUTDATED {
            parts.headers.remove(name);
        }
        parts.headers.remove(CONTENT_ENCODING);
        let again = coded && asked.gzip;
        if again {
            parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if asked.head {
            return Response::from_parts(parts, Body::Passed(body));
        }
        let forget = found.map(|found| format!(" data-forget=\"{}\"", found.forget)).unwrap_or_default();
        let insertion = Insertion::new(&format!("{element}{forget}></script>"), self.memory);
        let mut page = Page::new(decoder, insertion.counted(self.metrics.limit_counter(Limit::PageMemory)));
        if again {
            page = page.in_gzip();
        }
        Response::from_parts(parts, Body::page(body, page))
    }
}

/// The element, without its end. What stands in it is read by the script.
fn element(config: &Config, base: &str) -> String {
    let prefix = attribute(&config.login.prefix);
    let ancestors: Vec<&str> = config.framing.allowed_ancestors.iter().map(crate::config::Ancestor::as_str).collect();
    let token = config.login.token_paths.first().cloned().unwrap_or_else(|| format!("{}token", config.login.prefix));
    format!(
        "<script src=\"{prefix}guard.js?v={}\" data-prefix=\"{prefix}\" data-token=\"{}\" data-base=\"{}\" data-ttl=\"{}\" \
         data-recheck=\"{}\" data-ancestors=\"{}\"",
        script::version(),
        attribute(&token),
        attribute(base),
        config.cache.sessions.ttl.as_millis(),
        config.session.recheck.unwrap_or_default().as_millis(),
        attribute(&ancestors.join(" ")),
    )
}

/// What tells a token from others, and nothing about it that would help to find it: 32 bits, by FNV-1a. The script
/// compares it with what the page has stored, so that nothing is forgotten that is not ours.
fn fingerprint(token: &str) -> String {
    let hash = token.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{hash:08x}")
}

/// Whether the client takes gzip: named, or by `*`, and not with a quality of nothing (RFC 9110 §12.5.3).
fn takes_gzip(headers: &HeaderMap) -> bool {
    let mut any = false;
    for member in tokens(headers, ACCEPT_ENCODING) {
        let (name, refused) = coding(member);
        if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
            return !refused;
        }
        any |= name == "*" && !refused;
    }
    any
}

/// A member of `Accept-Encoding`: its name, and whether its quality is nothing.
fn coding(member: &str) -> (&str, bool) {
    let (name, parameters) = member.split_once(';').unwrap_or((member, ""));
    let quality = parameters.split(';').find_map(|parameter| parameter.trim().to_ascii_lowercase().strip_prefix("q=").map(str::to_owned));
    (name.trim(), quality.is_some_and(|quality| quality.trim().parse() == Ok(0.0)))
}

/// Asks for no coding that cannot be read.
fn readable_only(headers: &mut HeaderMap) {
    if !headers.contains_key(ACCEPT_ENCODING) {
        return;
    }
    let known = |member: &&str| {
        let name = coding(member).0;
        name.eq_ignore_ascii_case("identity") || Decoder::NAMES.iter().any(|known| name.eq_ignore_ascii_case(known))
    };
    let mut kept: Vec<&str> = tokens(headers, ACCEPT_ENCODING).filter(known).collect();
    if kept.is_empty() {
        kept.push(if takes_gzip(headers) { "gzip" } else { "identity" });
    }
    // Made of a header value's visible characters.
    let kept = HeaderValue::try_from(kept.join(", ")).unwrap_or_else(|_| HeaderValue::from_static("gzip"));
    headers.insert(ACCEPT_ENCODING, kept);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn accepting(fields: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(ACCEPT_ENCODING, HeaderValue::from_str(field).unwrap());
        }
        headers
    }

    #[test]
    fn what_is_asked_for_can_be_read() {
        for (fields, onward, gzip) in [
            (&[][..], None, false),
            (&["gzip, deflate, br, zstd"], Some("gzip, deflate, br"), true),
            (&["gzip;q=1.0, *;q=0.5"], Some("gzip;q=1.0"), true),
            (&["zstd", "br ; q=0.5"], Some("br ; q=0.5"), false),
            (&["X-Gzip"], Some("X-Gzip"), true),
            (&["zstd"], Some("identity"), false),
            (&["*"], Some("gzip"), true),
            (&["*;q=0"], Some("identity"), false),
            (&["*, gzip;q=0"], Some("gzip;q=0"), false),
            (&["gzip;q=0.000"], Some("gzip;q=0.000"), false),
            (&["identity;q=0, gzip"], Some("identity;q=0, gzip"), true),
            (&[""], Some("identity"), false),
        ] {
            let mut headers = accepting(fields);
            assert_eq!(takes_gzip(&headers), gzip, "{fields:?}");
            readable_only(&mut headers);
            let left: Vec<_> = headers.get_all(ACCEPT_ENCODING).iter().map(|value| value.to_str().unwrap()).collect();
            assert_eq!(left, onward.into_iter().collect::<Vec<_>>(), "{fields:?}");
        }
    }

    #[test]
    fn a_token_is_told_as_the_script_tells_it() {
        // FNV-1a's own test vectors.
        for (text, hash) in [("", "811c9dc5"), ("a", "e40c292c"), ("foobar", "bf9cf968")] {
            assert_eq!(fingerprint(text), hash);
        }
    }

    #[test]
    fn nothing_leaves_its_attribute() {
        let mut config = config::example(&[]);
        config.login.prefix = "/a\"><b>/".to_owned();
        let element = element(&config, "/chat");
        assert!(element.contains("src=\"/a&quot;&gt;&lt;b&gt;/guard.js?v=") && element.contains("data-base=\"/chat\""), "{element}");
        assert_eq!(element.matches('<').count(), 1);
    }
}
