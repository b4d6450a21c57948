//! Identity headers of a proxy in front: they are worth what keeps others from writing them.

use http::{HeaderMap, HeaderValue, Method};
use serde_json::Value;

use super::front::Front;
use super::look::{self, Eyes};
use super::{bad, good, skipped, toml_list, warning};
use crate::config::{Config, HeaderIdentity, IdentitySource};
use crate::doctor::Finding;

const TRUST: &str = "header.trusted_proxies";
const FORGED: &str = "header.forged";

/// Networks of more than this many addresses hold more than proxies.
const WIDEST_V4: u8 = 16;
const WIDEST_V6: u8 = 48;

/// What became of an identity header that a client wrote itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forged {
    /// It was believed.
    Believed,
    /// It was believed, from a machine that is in `server.trusted_proxies` itself.
    BelievedHere,
    /// It was not.
    Dropped,
    /// Nobody answered.
    Unknown,
}

fn source(config: &Config) -> Option<&HeaderIdentity> {
    match &config.identity.source {
        IdentitySource::Header(source) => Some(source),
        IdentitySource::ForwardAuth(_) | IdentitySource::Jwt(_) => None,
    }
}

/// Calls the public address as a client that writes identity headers itself. Asks who that is, which signs nobody
/// in, creates nothing and mints nothing.
pub(super) async fn forge(config: &Config, eyes: &Eyes) -> Option<Forged> {
    let source = source(config)?;
    let id = format!("gantry-doctor-{:016x}", random());
    let mut headers = HeaderMap::new();
    let value = HeaderValue::from_str(&id).ok()?;
    headers.insert(source.id.clone(), value.clone());
    if let Some(username) = &source.username {
        headers.insert(username.clone(), value);
    }
    let url = look::at(&config.server.public_url, &format!("{}session", config.login.prefix));
    let look = eyes.peep(Method::GET, &url, headers).await;
    let Some(reply) = look.reply() else { return Some(Forged::Unknown) };
    let said = serde_json::from_slice::<Value>(&reply.body).ok();
    let believed = reply.status.is_success() && said.is_some_and(|said| said["id"] == id);
    if !believed {
        return Some(Forged::Dropped);
    }
    // What shows itself in front has passed the header on, wherever we are.
    let own = match Front::of(Some(reply)) {
        Front::Unseen => eyes.connect(&url).await.ok().and_then(|stream| stream.tcp().local_addr().ok()),
        _ => None,
    };
    let trusted = own.is_some_and(|own| config.server.trusted_proxies.iter().any(|net| net.contains(&own.ip().to_canonical())));
    Some(if trusted { Forged::BelievedHere } else { Forged::Believed })
}

/// A number that nobody can guess.
pub(super) fn random() -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has randomness");
    u64::from_be_bytes(bytes)
}

/// Nothing for other identity sources.
pub(super) fn checks(config: &Config, forged: Option<Forged>) -> Vec<Finding> {
    let (Some(source), Some(forged)) = (source(config), forged) else { return Vec::new() };
    vec![trust(config), believed(source, forged)]
}

fn trust(config: &Config) -> Finding {
    let trusted = &config.server.trusted_proxies;
    let list = toml_list(trusted.iter().map(ToString::to_string));
    if trusted.is_empty() {
        return bad(
            TRUST,
            "identity.source is \"header\" and server.trusted_proxies is empty: no identity header is believed, so nobody is signed in",
            "[server] trusted_proxies = [\"10.0.0.7\"], with the address that the proxy calls Gantry from (the access log shows it as client)",
        );
    }
    if trusted.iter().any(|net| net.prefix_len() == 0) {
        return bad(
            TRUST,
            format!("server.trusted_proxies is {list}: whoever reaches Gantry may write identity headers and be anybody"),
            "list the proxy alone: [server] trusted_proxies = [\"10.0.0.7\"]",
        );
    }
    let wide = trusted.iter().find(|net| net.prefix_len() < if net.addr().is_ipv4() { WIDEST_V4 } else { WIDEST_V6 });
    let open =
        config.server.listen.into_iter().chain(config.server.tls.as_ref().map(|tls| tls.listen)).find(|addr| !addr.ip().is_loopback());
    match (wide, open) {
        (Some(wide), Some(open)) if !wide.addr().is_loopback() => warning(
            TRUST,
            format!(
                "Gantry listens on {open}, and every one of {wide} that reaches it around the proxy may write identity headers and be anybody"
            ),
            format!(
                "list the proxy alone in [server] trusted_proxies; and let nobody else reach that port: [server] listen = \"127.0.0.1:{}\" where the \
                 proxy is on the same machine or pod, else a firewall rule or NetworkPolicy",
                open.port()
            ),
        ),
        _ => good(TRUST, format!("identity headers are believed from {list} only")),
    }
}

fn believed(source: &HeaderIdentity, forged: Forged) -> Finding {
    let id = &source.id;
    match forged {
        Forged::Believed => bad(
            FORGED,
            format!("the public address passes a client's own {id} on, and Gantry believes it: ANYBODY can be signed in as anybody"),
            format!(
                "have the proxy in front replace {id} on every request, for people without a session too; in nginx: proxy_set_header {id} $user; \
                 (with oauth2-proxy's auth_request: auth_request_set $user $upstream_http_{};)",
                id.as_str().replace('-', "_")
            ),
        ),
        Forged::BelievedHere => warning(
            FORGED,
            format!(
                "a client's own {id} is believed from this machine, which is itself in server.trusted_proxies: whether strangers are, too, cannot be seen here"
            ),
            "run gantry doctor on another machine; where nothing but the proxy runs here, this is as it should be",
        ),
        Forged::Dropped => good(FORGED, format!("a client's own {id} is not believed by way of the public address")),
        Forged::Unknown => {
            skipped(FORGED, format!("the public address does not answer, so whether it passes on a client's own {id} could not be seen"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::doctor::Verdict;

    #[test]
    fn the_list_of_proxies_is_judged() {
        for (listen, trusted, verdict, fix) in [
            ("127.0.0.1:8080", "", Verdict::Bad, "trusted_proxies = ["),
            ("127.0.0.1:8080", "0.0.0.0/0", Verdict::Bad, "list the proxy alone"),
            ("0.0.0.0:8080", "::/0", Verdict::Bad, "list the proxy alone"),
            ("0.0.0.0:8080", "10.0.0.0/8", Verdict::Warning, "listen = \"127.0.0.1:8080\""),
            ("127.0.0.1:8080", "10.0.0.0/8", Verdict::Good, ""),
            ("0.0.0.0:8080", "10.1.2.3", Verdict::Good, ""),
            ("0.0.0.0:8080", "127.0.0.0/8", Verdict::Good, ""),
        ] {
            let config = config::example(&[("server.listen", listen), ("server.trusted_proxies", trusted)]);
            let finding = trust(&config);
            assert_eq!(finding.verdict, verdict, "{listen} {trusted}: {finding:?}");
            assert!(finding.fix.contains(fix), "{finding:?}");
        }
    }
}
