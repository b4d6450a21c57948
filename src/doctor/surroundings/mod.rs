//! The checks of what surrounds Gantry: the host app and its session, the public address and what stands in
//! front of it, and how the workspace counts addresses.
//!
//! Everything is looked at once and at the same time ([`look`]); each check then judges what was seen.

mod certificate;
mod certificate_facts;
mod clock;
mod cookies;
mod cross_origin;
mod forwarded;
mod frameworks;
mod framing;
mod front;
mod host_app;
mod look;
mod native;
mod origins;
mod pointers;
mod same_site;
mod set_cookie;
mod tokens;
mod transport;
mod trusted_header;
mod websocket;

use super::{Context, Finding, Verdict};

use look::{Eyes, Seen};

/// Looks at the surroundings. Takes a few seconds at most; must run within a runtime.
pub(super) async fn checks(context: &Context) -> Vec<Finding> {
    let eyes = Eyes::new(context);
    let (seen, sockets, counted, forged, token) = tokio::join!(
        Seen::gather(context, &eyes),
        websocket::Sockets::try_all(&context.config, &eyes),
        forwarded::Counting::find(&context.config, &eyes),
        trusted_header::forge(&context.config, &eyes),
        tokens::sample(context),
    );
    let config = &context.config;
    let mut findings = front::checks(config, &seen);
    findings.extend(certificate::checks(config, &seen));
    findings.extend(websocket::checks(config, &seen, &sockets));
    findings.extend(framing::checks(config, &seen));
    findings.extend(host_app::checks(context, &seen));
    findings.extend(tokens::checks(config, &seen, token));
    findings.extend(trusted_header::checks(config, forged));
    findings.extend(same_site::checks(config, &seen));
    findings.extend(cookies::checks(config, &seen));
    findings.extend(cross_origin::checks(config, &seen, &eyes).await);
    findings.extend(forwarded::checks(config, &counted));
    findings.extend(clock::checks(config, &seen));
    findings.extend(native::checks(config));
    findings
}

fn finding(check: &'static str, verdict: Verdict, seen: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { check, verdict, seen: seen.into(), fix: fix.into(), write: None }
}

fn good(check: &'static str, seen: impl Into<String>) -> Finding {
    finding(check, Verdict::Good, seen, "")
}

fn warning(check: &'static str, seen: impl Into<String>, fix: impl Into<String>) -> Finding {
    finding(check, Verdict::Warning, seen, fix)
}

fn bad(check: &'static str, seen: impl Into<String>, fix: impl Into<String>) -> Finding {
    finding(check, Verdict::Bad, seen, fix)
}

/// What could not be looked at. The words say why, and how it could be.
fn skipped(check: &'static str, seen: impl Into<String>) -> Finding {
    finding(check, Verdict::Skipped, seen, "")
}

/// A list of strings as `proxy.toml` writes it.
fn toml_list<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect();
    format!("[{}]", items.join(", "))
}

/// Text of a stranger's, on one line and short.
fn shown(text: &str) -> String {
    const MOST: usize = 60;
    text.chars().take(MOST).map(|c| if c.is_control() { '?' } else { c }).collect()
}
