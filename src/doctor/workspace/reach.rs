//! Whether `rocketchat.url` leads to a Rocket.Chat, and if not, to what.

use std::time::Instant;

use http::header::{ACCEPT, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::Value;
use url::Url;

use crate::config::{Config, IdentitySource, JwtKeys, Origin};
use crate::doctor::{Context, Finding, PATIENCE};
use crate::outbound::api::{Call, CallError, Reply};

pub(in crate::doctor) const REACHABLE: &str = "workspace.reachable";
pub(in crate::doctor) const IS_ROCKETCHAT: &str = "workspace.is_rocketchat";

/// Enough for the web client's page.
const MOST: usize = 1 << 20;

/// A Rocket.Chat that answers.
#[derive(Debug)]
pub(super) struct Reached {
    pub(super) reachable: Finding,
    pub(super) is_rocketchat: Finding,
    /// As it tells strangers: two parts, from some versions on.
    pub(super) version: String,
}

/// Finds a Rocket.Chat at `rocketchat.url`, or says what is there.
pub(super) async fn reach(context: &Context) -> Result<Reached, Box<Finding>> {
    let config = &context.config;
    let base = &config.rocketchat.url;
    // A Gantry that leads to itself would send anything but its own pages round in circles.
    let own = format!("{}session", config.login.prefix);
    let start = Instant::now();
    match look(context, &at(base, &own), "application/json").await {
        Ok(reply) if is_gantry(&reply) => return Err(Box::new(gantry(config))),
        Ok(_) => {}
        Err(error) => return Err(Box::new(unreachable(context, &error).await)),
    }
    let took = start.elapsed();
    let reply = match look(context, &at(base, "/api/info"), "application/json").await {
        Ok(reply) => reply,
        Err(error) => return Err(Box::new(unreachable(context, &error).await)),
    };
    let Some(version) = rocketchat_version(&reply) else {
        return Err(Box::new(something_else(context, &reply).await));
    };
    Ok(Reached {
        reachable: Finding::good(REACHABLE, format!("{base} answers within {} ms", took.as_millis().max(1))),
        is_rocketchat: Finding::good(IS_ROCKETCHAT, "it is a Rocket.Chat"),
        version,
    })
}

/// The headers of the web client's page.
pub(super) async fn page(context: &Context) -> Result<HeaderMap, String> {
    match look(context, &at(&context.config.rocketchat.url, "/"), "text/html").await {
        Ok(reply) if reply.status.is_success() => Ok(reply.headers),
        Ok(reply) => Err(format!("Rocket.Chat's start page answers {}", reply.status)),
        Err(error) => Err(error.to_string()),
    }
}

async fn look(context: &Context, url: &Url, accept: &'static str) -> Result<Reply, CallError> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static(accept));
    let scheme = if context.config.server.public_url.scheme() == "https" { "https" } else { "http" };
    headers.insert("x-forwarded-proto", HeaderValue::from_static(scheme));
    context.workspace.call(Call { method: Method::GET, url, headers, body: None, timeout: PATIENCE, max_body: MOST }).await
}

fn at(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url
}

fn json(reply: &Reply) -> Option<Value> {
    serde_json::from_slice(&reply.body).ok().filter(Value::is_object)
}

/// The version, if this is an answer of Rocket.Chat's `/api/info`.
fn rocketchat_version(reply: &Reply) -> Option<String> {
    let answer = json(reply).filter(|_| reply.status.is_success())?;
    // Many an application has a "version" somewhere.
    let marked = ["success", "minimumClientVersions", "info", "commit"].iter().any(|key| answer.get(*key).is_some());
    let version = answer.get("version").or_else(|| answer.pointer("/info/version"))?.as_str()?;
    let version: String = version.chars().filter(char::is_ascii_graphic).take(40).collect();
    (marked && !version.is_empty()).then_some(version)
}

/// Only Gantry refuses with these three.
fn is_gantry(reply: &Reply) -> bool {
    json(reply).is_some_and(|answer| ["error", "message", "id"].iter().all(|key| answer.get(*key).is_some_and(Value::is_string)))
}

fn gantry(config: &Config) -> Finding {
    Finding::bad(
        IS_ROCKETCHAT,
        format!("{} is a Gantry, so requests would go round in circles", config.rocketchat.url),
        format!("Write the address of Rocket.Chat itself; {}", line("http://<host>:3000")),
    )
}

/// The line of proxy.toml.
fn line(url: &str) -> String {
    format!("in [rocketchat] of proxy.toml: url = \"{url}\"")
}

/// Why there is no connection, or no answer over it.
async fn unreachable(context: &Context, error: &CallError) -> Finding {
    let url = &context.config.rocketchat.url;
    let seen = error.to_string();
    let words = seen.to_ascii_lowercase();
    let says = |any: &[&str]| any.iter().any(|word| words.contains(word));
    let secure = url.scheme() == "https";
    let fix = if says(&["refused"]) {
        format!(
            "Start Rocket.Chat, or correct the address; {}\nRocket.Chat listens on the port of its variable PORT, 3000 by default.",
            line("http://<host>:3000")
        )
    } else if says(&["lookup", "resolve", "name or service", "no such host", "nodename"]) {
        format!(
            "The name {} does not exist for this machine; {}\nIn compose that is the service's name, in Kubernetes <service>.<namespace>.",
            url.host_str().unwrap_or_default(),
            line("http://<host>:3000")
        )
    } else if secure && says(&["notvalidforname", "not valid for"]) {
        format!(
            "Use the name that the certificate is for; {}\nor name it apart from the address: in [rocketchat.tls], server_name = \"<name on the certificate>\"",
            line("https://<name on the certificate>")
        )
    } else if secure && says(&["expired"]) {
        "Renew the certificate that Rocket.Chat, or the proxy in front of it, shows. (Or this machine's clock is wrong.)".to_owned()
    } else if secure && says(&["certificate", "unknownissuer", "cert"]) {
        "Have the certificate's authority trusted: in [upstream] of proxy.toml, ca_file = \"<PEM file of that authority>\"\nThe file the server shows has to hold the intermediate certificates too.".to_owned()
    } else if secure && says(&["corrupt", "invalidcontenttype", "wrong version"]) {
        format!("Something that speaks plain HTTP is there; {}", line(&other_scheme(url)))
    } else if !secure && matches!(error, CallError::Broken { .. }) && speaks_tls(context).await {
        format!("It wants TLS; {}", line(&other_scheme(url)))
    } else if matches!(error, CallError::Timeout { .. }) || says(&["no connection within"]) {
        format!(
            "Look for a firewall or network policy between Gantry and Rocket.Chat, or correct the address; {}",
            line("http://<host>:3000")
        )
    } else {
        format!("Correct the address; {}", line("http://<host>:3000"))
    };
    Finding::bad(REACHABLE, seen, fix)
}

fn other_scheme(url: &Url) -> String {
    let text = url.as_str().trim_end_matches('/');
    match text.strip_prefix("https://") {
        Some(rest) => format!("http://{rest}"),
        None => text.replacen("http://", "https://", 1),
    }
}

/// Whether the same port takes a TLS handshake, be its certificate good or not.
async fn speaks_tls(context: &Context) -> bool {
    let Ok(url) = Url::parse(&other_scheme(&context.config.rocketchat.url)) else { return false };
    match look(context, &at(&url, "/api/info"), "application/json").await {
        Ok(_) => true,
        Err(error) => error.to_string().to_ascii_lowercase().contains("cert"),
    }
}

/// What answers there, since it is no Rocket.Chat.
async fn something_else(context: &Context, reply: &Reply) -> Finding {
    let url = &context.config.rocketchat.url;
    let status = reply.status;
    let header = |name| reply.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    let body = String::from_utf8_lossy(&reply.body[..reply.body.len().min(2048)]).to_ascii_lowercase();
    let html = header(CONTENT_TYPE).contains("html") || body.trim_start().starts_with('<');
    let ask = format!("GET {} answers {status}", at(url, "/api/info"));
    if status.is_redirection() {
        let to = Url::parse(header(LOCATION)).ok();
        let better = to.as_ref().and_then(|to| Some(to.as_str().strip_suffix("/api/info")?.to_owned()));
        // What stands in the query may be secret.
        let shown = to.map_or_else(|| "elsewhere".to_owned(), |to| to[..url::Position::AfterPath].to_owned());
        let fix = better.map_or_else(
            || {
                format!(
                    "Something in front of Rocket.Chat answers for it, perhaps with a sign-in. Go around it; {}",
                    line("http://<host>:3000")
                )
            },
            |better| format!("Use the address that it leads to; {}", line(&better)),
        );
        return Finding::bad(IS_ROCKETCHAT, format!("{ask} and leads to {shown}"), fix);
    }
    if status == StatusCode::BAD_REQUEST && (body.contains("https port") || body.contains("https server")) {
        return Finding::bad(IS_ROCKETCHAT, format!("{ask}: it wants TLS"), line(&other_scheme(url)));
    }
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED) {
        let fix = format!(
            "Something in front of Rocket.Chat wants a sign-in: /api/info is open to everybody. Go around it; {}",
            line("http://<host>:3000")
        );
        return Finding::bad(IS_ROCKETCHAT, ask, fix);
    }
    if status == StatusCode::TOO_MANY_REQUESTS {
        return Finding::bad(IS_ROCKETCHAT, format!("{ask}: too many calls in the last minute"), "Run gantry doctor again in a minute.");
    }
    if status.is_server_error() {
        let fix =
            "Look at Rocket.Chat's own log: it is starting, or it is broken. The gateway in front of it, if any, answers in its place.";
        return Finding::bad(IS_ROCKETCHAT, ask, fix);
    }
    if let Some(root) = under_a_path(context).await {
        return Finding::bad(IS_ROCKETCHAT, format!("{ask}, but a Rocket.Chat answers without the path {}", url.path()), line(&root));
    }
    let what = if html {
        "a web page"
    } else if json(reply).is_some() {
        "JSON that is not Rocket.Chat's"
    } else {
        "something that is not Rocket.Chat"
    };
    let whose = match host_app(&context.config) {
        Some(key) => format!("; it is the host app's own address ({key})"),
        None => String::new(),
    };
    let fix = format!(
        "{}\nCheck: curl {} has to show a version. A workspace with a path in its ROOT_URL wants that path in the address too.",
        line("http://<host>:3000"),
        at(url, "/api/info")
    );
    Finding::bad(IS_ROCKETCHAT, format!("{ask} with {what}{whose}"), fix)
}

/// The address without its path, if Rocket.Chat is there.
async fn under_a_path(context: &Context) -> Option<String> {
    let url = &context.config.rocketchat.url;
    let mut root = url.clone();
    root.set_path("/");
    if url.path() == "/" {
        return None;
    }
    let reply = look(context, &at(&root, "/api/info"), "application/json").await.ok()?;
    rocketchat_version(&reply).map(|_| root.as_str().trim_end_matches('/').to_owned())
}

/// The key that names the same place as the host app's, if one does.
fn host_app(config: &Config) -> Option<&'static str> {
    let here = Origin::of(&config.rocketchat.url)?;
    let source = match &config.identity.source {
        IdentitySource::ForwardAuth(forward) => Some((&forward.url, "identity.forward_auth.url")),
        IdentitySource::Jwt(jwt) => match &jwt.keys {
            JwtKeys::Jwks { url, .. } => Some((url, "identity.jwt.jwks_url")),
            JwtKeys::PublicKey(_) | JwtKeys::SharedSecret(_) => None,
        },
        IdentitySource::Header(_) => None,
    };
    if let Some((_, key)) = source.filter(|(url, _)| Origin::of(url).as_ref() == Some(&here)) {
        return Some(key);
    }
    config.framing.allowed_ancestors.iter().any(|ancestor| ancestor.as_str() == here.as_str()).then_some("framing.allowed_ancestors")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn reply(status: u16, body: &'static str) -> Reply {
        Reply { status: StatusCode::from_u16(status).unwrap(), headers: HeaderMap::new(), body: Bytes::from_static(body.as_bytes()) }
    }

    #[test]
    fn only_rocketchat_is_taken_for_rocketchat() {
        for (status, body, version) in [
            (200, r#"{"version":"8.8","success":true}"#, Some("8.8")),
            (200, r#"{"version":"8.8","minimumClientVersions":{}}"#, Some("8.8")),
            (200, r#"{"info":{"version":"6.5.3"},"success":true}"#, Some("6.5.3")),
            (200, r#"{"version":"1.2"}"#, None),
            (200, r#"{"success":true}"#, None),
            (200, "<!doctype html>", None),
            (404, r#"{"version":"8.8","success":true}"#, None),
            (200, "[]", None),
        ] {
            assert_eq!(rocketchat_version(&reply(status, body)).as_deref(), version, "{body}");
        }
    }

    #[test]
    fn a_gantry_is_known_by_its_refusals() {
        assert!(is_gantry(&reply(401, r#"{"error":"no_session","message":"Please sign in.","id":"x"}"#)));
        assert!(!is_gantry(&reply(404, r#"{"error":"not found","message":"x"}"#)));
        assert!(!is_gantry(&reply(200, "<!doctype html>")));
    }

    #[test]
    fn the_other_scheme_keeps_host_port_and_path() {
        for (url, other) in [("http://h:3000/", "https://h:3000"), ("https://h/chat", "http://h/chat")] {
            assert_eq!(other_scheme(&Url::parse(url).unwrap()), other);
        }
    }
}
