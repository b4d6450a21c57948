//! The public address: whether it leads to this Gantry, over https, and what stands in between.

use http::HeaderName;
use http::header::{LOCATION, SERVER, STRICT_TRANSPORT_SECURITY, VIA};
use serde_json::Value;

use super::look::{Look, Seen};
use super::{bad, good, look, shown, skipped, transport, warning};
use crate::config::{Config, IdentitySource};
use crate::doctor::Finding;
use crate::headers::site;
use crate::outbound::api::Reply;

const REACHABLE: &str = "public.reachable";
const GANTRY: &str = "public.gantry";
const REDIRECT: &str = "public.redirect";
const LOOP: &str = "public.loop";
const HSTS: &str = "public.hsts";
const PROXIES: &str = "public.proxies";

/// What stands in front of Gantry, as far as its answers tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Front {
    /// nginx, or the ingress controller made of it.
    Nginx,
    /// Apache httpd.
    Apache,
    /// Caddy.
    Caddy,
    /// Envoy and what is made of it.
    Envoy,
    /// Cloudflare.
    Cloudflare,
    /// An AWS load balancer or `CloudFront`.
    Aws,
    /// Something that names itself otherwise.
    Other,
    /// Nothing that shows itself.
    Unseen,
}

impl Front {
    /// What answered, by its headers. Neither Gantry nor Rocket.Chat sends any of these.
    pub(super) fn of(reply: Option<&Reply>) -> Self {
        let Some(reply) = reply else { return Self::Unseen };
        let has = |name: &'static str| reply.headers.contains_key(name);
        let text = |name: &HeaderName| look::header(reply, name).unwrap_or_default().to_ascii_lowercase();
        let (server, via) = (text(&SERVER), text(&VIA));
        let says = |word: &str| server.contains(word) || via.contains(word);
        if has("cf-ray") || says("cloudflare") {
            Self::Cloudflare
        } else if has("x-amz-cf-id") || says("awselb") || says("cloudfront") {
            Self::Aws
        } else if says("nginx") || says("openresty") {
            Self::Nginx
        } else if says("apache") {
            Self::Apache
        } else if says("caddy") {
            Self::Caddy
        } else if says("envoy") || has("x-envoy-upstream-service-time") {
            Self::Envoy
        } else if !server.is_empty() || !via.is_empty() || has("x-served-by") || has("x-cache") || has("x-varnish") {
            Self::Other
        } else {
            Self::Unseen
        }
    }

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Apache => "Apache",
            Self::Caddy => "Caddy",
            Self::Envoy => "Envoy",
            Self::Cloudflare => "Cloudflare",
            Self::Aws => "AWS",
            Self::Other | Self::Unseen => "the proxy in front",
        }
    }
}

/// The public address and what stands in between.
pub(super) fn checks(config: &Config, seen: &Seen) -> Vec<Finding> {
    let place = config.server.public_url.origin().ascii_serialization();
    let mut findings = Vec::new();
    match &seen.session.outcome {
        Err(error) => {
            let own = "from inside a pod or container, or behind a router, that may be so and harmless: then run this check from outside";
            findings.push(warning(
                REACHABLE,
                format!("{place} cannot be reached from here: {error} ({own})"),
                format!(
                    "start Gantry (gantry run) and what stands in front of it, and point the name's DNS record there; else {}",
                    transport::advice(error, "server.public_url", &place)
                ),
            ));
            return findings;
        }
        Ok(_) => findings.push(good(REACHABLE, format!("{place} answers"))),
    }
    findings.push(leads_here(config, seen, &place));
    findings.extend(redirect(seen, &place));
    findings.extend(looping(seen, &place));
    findings.extend(hsts(config, seen, &place));
    findings.push(proxies(config, seen, &place));
    findings
}

/// Whether an answer to our `session` path is one of ours.
pub(super) fn is_ours(reply: &Reply) -> bool {
    let Ok(Value::Object(body)) = serde_json::from_slice(&reply.body) else { return false };
    let request = look::header(reply, &HeaderName::from_static("x-request-id"));
    let refusal = ["error", "message", "id"].iter().all(|field| body.contains_key(*field)) && body["id"].as_str() == request;
    let person = reply.status.is_success() && body.contains_key("id") && body.contains_key("username");
    refusal || person
}

fn leads_here(config: &Config, seen: &Seen, place: &str) -> Finding {
    let path = format!("{}session", config.login.prefix);
    let Ok(reply) = &seen.session.outcome else { return good(GANTRY, "") };
    if is_ours(reply) {
        return good(GANTRY, format!("{place}{path} is answered by Gantry"));
    }
    let front = Front::of(Some(reply));
    let by_proxy = matches!(config.identity.source, IdentitySource::Header(_))
        && (reply.status.is_redirection() || matches!(reply.status.as_u16(), 401 | 403));
    if by_proxy {
        let what = look::location(reply).map_or_else(|| reply.status.as_u16().to_string(), |to| format!("a redirect to {to}"));
        return skipped(
            GANTRY,
            format!(
                "{place}{path} asks for a sign-in first ({what}), as a proxy that sets identity headers may: whether Gantry stands behind it cannot be seen without one"
            ),
        );
    }
    let listen = look::local_url(config, "/").map_or_else(|| "server.listen".to_owned(), |url| url.origin().ascii_serialization());
    let here = seen.local.as_ref().and_then(Look::reply).is_some_and(is_ours);
    let running = if here { format!("; Gantry itself runs on {listen}") } else { String::new() };
    let body = String::from_utf8_lossy(&reply.body);
    if let Some(to) = look::location(reply) {
        return bad(
            GANTRY,
            format!("{place}{path} answers with a redirect to {to}: it does not reach Gantry{running}"),
            format!(
                "set [server] public_url (and Rocket.Chat's ROOT_URL) to the address that the redirect leads to, or take the redirect out of {}",
                front.name()
            ),
        );
    }
    let what = if body.contains("__meteor_runtime_config__") || body.contains("meteor_runtime_config.js") {
        "by Rocket.Chat itself: Gantry is bypassed".to_owned()
    } else {
        format!("{} and {}, not by Gantry", reply.status.as_u16(), look::kind(reply))
    };
    let reached = seen.local.as_ref().is_some_and(|local| local.outcome.is_ok());
    if matches!(reply.status.as_u16(), 502..=504) && seen.local.is_some() && !reached {
        return bad(
            GANTRY,
            format!("{place}{path} is answered {what}, and nothing answers on {listen}: Gantry does not run there"),
            format!("start Gantry (gantry run), and have {} pass everything to {listen}", front.name()),
        );
    }
    let rule = match front {
        Front::Nginx => format!("in nginx: location / {{ proxy_pass {listen}; }}"),
        Front::Apache => format!("in Apache: ProxyPass / {listen}/"),
        Front::Caddy => format!("in Caddy: reverse_proxy {listen}"),
        _ => format!("point everything under {place}, {} included, at {listen}", config.login.prefix),
    };
    bad(
        GANTRY,
        format!("{place}{path} is answered {what}{running}"),
        format!(
            "{rule}; and check that the DNS record leads to this machine: getent hosts {}",
            config.server.public_url.host_str().unwrap_or_default()
        ),
    )
}

/// Whether the public page leads to itself, as `Force_SSL` makes it when nobody says that browsers come by https.
fn looping(seen: &Seen, place: &str) -> Option<Finding> {
    let page = &seen.page;
    let reply = page.reply().filter(|reply| reply.status.is_redirection())?;
    let to = page.url.join(look::header(reply, &LOCATION)?).ok()?;
    // The redirect of Force_SSL leaves a port out.
    let same = (to.scheme(), to.host(), to.path()) == (page.url.scheme(), page.url.host(), page.url.path());
    same.then(|| {
        bad(
            LOOP,
            format!(
                "{place} redirects to itself for ever: Rocket.Chat's Force_SSL is on, and it is not told that browsers come by https"
            ),
            "have what ends TLS say so, and list it in [server] trusted_proxies; in nginx: proxy_set_header X-Forwarded-Proto $scheme; (or, in \
             Rocket.Chat's environment: OVERWRITE_SETTING_Force_SSL=false)",
        )
    })
}

/// Whether plain HTTP leads to https.
fn redirect(seen: &Seen, place: &str) -> Option<Finding> {
    let look = seen.plain.as_ref()?;
    let Ok(reply) = &look.outcome else {
        return Some(good(REDIRECT, format!("nothing answers in plain HTTP beside {place}; people who type the bare name see nothing")));
    };
    if reply.status.is_redirection() {
        let to = look::header(reply, &LOCATION).unwrap_or_default();
        if to.starts_with("https://") {
            return Some(good(REDIRECT, format!("plain HTTP leads to {}", shown(to))));
        }
    }
    Some(warning(
        REDIRECT,
        format!(
            "{} answers {} in plain HTTP instead of leading to {place}: passwords and tokens may travel in the clear",
            look.url,
            reply.status.as_u16()
        ),
        "[server] redirect_to_https = true where Gantry listens on port 80; in nginx: return 308 https://$host$request_uri;",
    ))
}

fn hsts(config: &Config, seen: &Seen, place: &str) -> Option<Finding> {
    let reply = seen.session.reply()?;
    if config.server.public_url.scheme() != "https" {
        return None;
    }
    let wanted = config.server.tls.as_ref().and_then(|tls| tls.hsts.as_ref());
    Some(match (look::header(reply, &STRICT_TRANSPORT_SECURITY), wanted) {
        (Some(value), _) => good(HSTS, format!("{place} sends Strict-Transport-Security: {}", shown(value))),
        (None, Some(_)) => warning(
            HSTS,
            format!(
                "server.tls.hsts is set, and {place} sends no Strict-Transport-Security: something in front ends TLS, or takes it away"
            ),
            "send it there: in nginx add_header Strict-Transport-Security \"max-age=31536000\" always;",
        ),
        (None, None) => {
            good(HSTS, format!("{place} sends no Strict-Transport-Security, which is an option: [server.tls] hsts = \"max-age=86400\""))
        }
    })
}

/// Something stands in front, and Gantry believes nothing of what it says.
fn proxies(config: &Config, seen: &Seen, place: &str) -> Finding {
    let reply = seen.session.reply();
    let front = Front::of(reply);
    let trusted = &config.server.trusted_proxies;
    if trusted.iter().any(|net| net.prefix_len() == 0) {
        return bad(
            PROXIES,
            "server.trusted_proxies trusts everybody: any client may write its own X-Forwarded-For, and pose as any address",
            "list the proxies alone: [server] trusted_proxies = [\"10.0.0.7\"], with the addresses that the access log shows as client now",
        );
    }
    let tls_elsewhere =
        config.server.public_url.scheme() == "https" && config.server.tls.is_none() && !site::is_loopback(&config.server.public_url);
    let balanced = !config.server.proxy_protocol.is_empty();
    if trusted.is_empty() && !balanced && (front != Front::Unseen || tls_elsewhere) {
        let who = if front == Front::Unseen {
            "public_url is https and Gantry has no [server.tls], so something in front ends TLS".to_owned()
        } else {
            let says = reply.and_then(|reply| look::header(reply, &SERVER).or_else(|| look::header(reply, &VIA)));
            format!("{place} answers through {}{}", front.name(), says.map(|says| format!(" (\"{}\")", shown(says))).unwrap_or_default())
        };
        return bad(
            PROXIES,
            format!(
                "{who}, while server.trusted_proxies is empty: its X-Forwarded-For and -Proto are thrown away, all people have one address, \
                 and Rocket.Chat's rate limits and login blocks, and limits.logins_per_client here, meet them together"
            ),
            suggestion(front),
        );
    }
    let words = if trusted.is_empty() {
        "nothing seems to stand in front of Gantry".to_owned()
    } else {
        format!("server.trusted_proxies lists {}", super::toml_list(trusted.iter().map(ToString::to_string)))
    };
    good(PROXIES, words)
}

fn suggestion(front: Front) -> String {
    let log = "the address that the access log shows as client for everybody";
    match front {
        Front::Cloudflare => {
            "[server] trusted_proxies = the ranges of https://www.cloudflare.com/ips/, and the addresses of whatever stands between"
                .to_owned()
        }
        Front::Aws => "[server] trusted_proxies = [\"10.0.0.0/16\"], the subnets of the load balancer (the VPC's CIDR)".to_owned(),
        Front::Nginx => format!(
            "[server] trusted_proxies = [\"127.0.0.1\"] for an nginx on this machine, else {log}; and in nginx: proxy_set_header X-Forwarded-For \
             $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;"
        ),
        _ => format!(
            "[server] trusted_proxies = [\"127.0.0.1\"] for one on this machine, else {log}; in Kubernetes the pods' CIDR, such as \"10.0.0.0/8\""
        ),
    }
}
